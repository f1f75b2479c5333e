"""Accuracy and attention error."""
