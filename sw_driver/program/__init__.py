"""The compiled file and its slots: all that a board needs."""
