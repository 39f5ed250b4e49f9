"""Who labels: proposers, SAM teachers and how they are tuned."""
