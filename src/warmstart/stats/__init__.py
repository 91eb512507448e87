"""Intervals, permutation tests, folds-free statistics on plain arrays."""
