"""One pass over the data, many taps, kept in a content-addressed store."""
