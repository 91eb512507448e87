"""Readiness and comparisons of predictions."""
