"""Tests without servers or network."""
