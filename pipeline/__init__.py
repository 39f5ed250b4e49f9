"""The batch data engine: weak labels in; pseudo-masks, students and the bill out."""
