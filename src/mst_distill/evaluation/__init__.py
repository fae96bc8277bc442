"""What the held-out split shows: figures of merit, comparisons, pictures."""
