"""Intervals, permutation tests and paired tests on plain arrays."""
