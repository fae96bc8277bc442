"""Benchmark of each stage against a plain schedule of the same mathematics: `python -m bench`."""
