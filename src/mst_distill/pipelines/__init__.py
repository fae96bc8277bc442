"""Kedro pipelines: thin nodes that call the other packages."""
