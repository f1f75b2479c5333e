"""Checks of the parameters of units; the messages name the parameter and show its value."""

__all__ = ["check_integers", "check_least", "check_positive"]


def check_integers(**checks):
    """Raise ``ValueError`` unless every ``name=(value, low, high)`` is an integer in its range."""
    for name, (value, low, high) in checks.items():
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} must be an integer from {low} to {high}, not {value!r}")


def check_least(**checks):
    """Raise ``ValueError`` unless every ``name=(value, low)`` is an integer of at least `low`."""
    for name, (value, low) in checks.items():
        if not isinstance(value, int) or value < low:
            raise ValueError(f"{name} must be an integer of at least {low}, not {value!r}")


def check_positive(**values):
    """Raise ``ValueError`` unless every ``name=value`` is a positive integer."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, not {value!r}")
