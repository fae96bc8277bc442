"""The compared methods, one file for each."""
