"""A finished model in the formats of other programs, each a folder that needs no warmstart."""
