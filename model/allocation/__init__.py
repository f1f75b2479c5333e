"""How many bits which node gets: what that costs, what it loses, and the exact best choice."""
