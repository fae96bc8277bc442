"""Predictions on the held-out split, their metrics, and the verdict."""
