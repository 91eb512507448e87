"""warmstart as scikit-learn estimators."""
