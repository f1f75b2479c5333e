"""What synthesis says before placement: sizes, depth, estimated delays."""
