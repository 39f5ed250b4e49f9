"""SAM in three rings: tensors (load), pixels (predictor), policy (the teachers)."""
