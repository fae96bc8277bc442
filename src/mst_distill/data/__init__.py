"""Samples and the store that holds them, and what they look like."""
