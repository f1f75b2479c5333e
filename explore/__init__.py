"""The design space: which accelerators and quantizations there are, and the best of them."""
