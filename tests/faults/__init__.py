"""Tests that crash, kill and disconnect."""
