"""The omni-supervised paper's relative claims (Das et al. 2024), checked end to end with the embedded models."""
