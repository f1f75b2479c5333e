"""An integer network is trained as what it computes; the only room that imports PyTorch for that."""
