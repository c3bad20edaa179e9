"""Tests that every implementation of a seam has to pass."""
