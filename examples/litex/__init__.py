"""An accelerator with a player in a system made with LiteX."""
