"""A model behind HTTP: what it answers is handed in, what it refuses is decided here."""
