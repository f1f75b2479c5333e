"""Comparisons with the vectors that others have published."""
