"""The embedded model family: builders, training recipe and weights."""
