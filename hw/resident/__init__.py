"""Programs that stay: the player, and the memories that it plays from."""
