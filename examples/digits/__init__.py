"""A small Vision Transformer for scikit-learn's handwritten digits, and how it was trained."""
