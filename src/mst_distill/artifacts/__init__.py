"""Files that are whole, and say what they are and what they were made from."""
