"""Pieces without knowledge of the accelerator."""
