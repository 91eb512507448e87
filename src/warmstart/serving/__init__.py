"""A finished model behind HTTP."""
