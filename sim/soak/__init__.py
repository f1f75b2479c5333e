"""Hostile streams, damaged lines and planted faults."""
