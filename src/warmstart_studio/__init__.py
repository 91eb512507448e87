"""The studio: label, train and correct on one local page."""
