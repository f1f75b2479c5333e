"""The wire and the registers."""
