"""A checkpoint of somebody else becomes a float network."""
