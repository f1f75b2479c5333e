"""External memories of the boards: LiteDRAM's controllers, and what they give."""
