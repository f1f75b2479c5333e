"""The memories and their ports."""
