"""What a network is, float and integer, its forward pass and its file."""
