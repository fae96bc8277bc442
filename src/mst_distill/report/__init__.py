"""Pages that a person opens: the report of a run, that of a comparison, and the model card."""
