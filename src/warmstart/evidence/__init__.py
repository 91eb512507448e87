"""What is measured before anything is decided, and problems in the data."""
