"""Vocabulary and adapters; imports nothing of ours outside this package."""
