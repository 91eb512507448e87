"""What is predicted: one class, any of several labels, or a number."""
