"""A finished model, ours or not, judged on labelled examples."""
