"""Feature extraction, its engines and its cache."""
