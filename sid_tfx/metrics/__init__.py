"""Metrics: semantic-ID quality and ranking, in NumPy."""
