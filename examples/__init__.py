"""Models to try the generator with."""
