"""Digits, images, synthetic weights."""
