"""Pictures, faces, speech and tweets as arrays and vectors; no benchmark is known here."""
