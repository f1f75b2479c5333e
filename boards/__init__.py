"""One file a board, what they share, and building one."""
