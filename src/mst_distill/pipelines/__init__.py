"""Kedro pipelines: thin nodes around what the other packages do."""
