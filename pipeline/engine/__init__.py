"""When and where stages run. Knows no model and no file format."""
