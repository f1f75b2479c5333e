"""From an integer network to a program, and the driver that runs it."""
