"""Integer networks trained as what they compute, in PyTorch, which only this room needs."""
