"""Heads on frozen features, and fine-tuning of unfrozen blocks."""
