"""From a float checkpoint to an integer network, and the arithmetic of every operator."""
