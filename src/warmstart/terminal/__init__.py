"""Results and progress as text, on a terminal and in a notebook."""
