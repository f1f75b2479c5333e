"""Place, route, pack: one file a tool chain."""
