"""Use of a finished student: prediction on new data, and export."""
