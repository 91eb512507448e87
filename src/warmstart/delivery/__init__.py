"""What the user takes home: model folder, card, report."""
