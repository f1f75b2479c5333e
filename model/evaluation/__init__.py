"""Accuracy, attention error, and bits by node as accuracy needs them."""
