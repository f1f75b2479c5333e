"""Instructions in, permissions out."""
