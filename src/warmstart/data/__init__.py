"""From any layout of labelled examples to an index, splits and groups."""
