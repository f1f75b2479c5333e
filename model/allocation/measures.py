"""What can be limited, and how losses can be measured, by name."""

__all__ = ["COSTS", "MEASURES"]

COSTS = {"bytes": "weights, packed at their bits",
         "bops": "products times bits of weights times bits of activations",
         "cycles": "as the compiler predicts for the accelerator",
         "energy": "pJ of the products, of a table of estimates"}
"""What can be limited."""

MEASURES = "logits", "trace"
"""The change of the logits, or the curvature of the loss times the squared rounding of weights."""
