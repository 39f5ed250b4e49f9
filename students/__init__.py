"""Who learns: instance segmentation students trained on pseudo-masks."""
