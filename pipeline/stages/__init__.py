"""The verbs of a run, one a file."""
