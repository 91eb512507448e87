"""Problems in the data, and the evidence for the verdict."""
