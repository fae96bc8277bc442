"""Samples, the store that holds them on disk, and the report on their content."""
