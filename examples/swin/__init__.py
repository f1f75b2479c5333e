"""A Swin Transformer on the memories of a small part."""
