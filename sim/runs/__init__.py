"""One whole run: simulate, serve, record pins, draw up a timeline."""
