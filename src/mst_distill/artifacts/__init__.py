"""Artefacts: files that are written as a whole, with a record of what they were made from."""
