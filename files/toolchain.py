"""The compiler of this machine: that of simulations, and of all else that is compiled on demand."""

import os
import shlex

__all__ = ["compiler_command"]


def compiler_command():
    """Return the beginning of a command that runs the C++ compiler: ``CXX``, or ``g++``."""
    return shlex.split(os.environ.get("CXX", "")) or ["g++"]
