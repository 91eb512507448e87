"""Metrics and comparisons of predictions."""
