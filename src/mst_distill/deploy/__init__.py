"""The student in use: its export, the check of the export, and predictions from raw values."""
