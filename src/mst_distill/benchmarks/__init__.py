"""Benchmarks: raw files to samples, one file each."""
