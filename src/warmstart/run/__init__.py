"""What a run does, from the request to the run folder: the recipe of `fit` and its steps."""
