"""The systola command: one file a command."""
