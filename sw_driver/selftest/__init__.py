"""Short programs with known answers, and what part of a board their differences name."""
