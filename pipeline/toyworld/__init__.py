"""The seeded synthetic data set: scenes with exact masks, and everything about them that later studies need."""
