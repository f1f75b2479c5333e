"""A small Vision Transformer for Fashion-MNIST, and how it was trained."""
