"""How fast each stage is, against a plain schedule of the same mathematics: `python -m bench`."""
