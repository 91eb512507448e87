"""Closed-form and convex solvers on plain arrays: no torch, no files."""
