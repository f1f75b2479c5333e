"""The MATRIX engine: a matrix product from the feeder to its result words."""
