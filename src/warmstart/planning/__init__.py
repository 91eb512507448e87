"""Records in, plan out; free of torch."""
