"""Hostile streams and damaged lines."""
