"""A network as data: typed nodes on named tensors, and its readers."""
