"""Images, faces, speech and tweets as arrays and vectors; independent of the benchmarks."""
