"""Say in one line which system tool is missing, before anything is compiled."""

import importlib
import shutil
import sys

import find_libpython

from systola.files.toolchain import compiler_command

__all__ = ["MissingToolError", "check_tools", "posix_module"]

_NEEDED = [
    (lambda: compiler_command()[0], "a C++ compiler", "g++"),
    (lambda: "make", "make", "make"),
]


class MissingToolError(ValueError):
    """A system tool that simulation needs is not installed; the message names the package."""


def posix_module(name):
    """Return the module `name` of Python, which not all systems have.

    Raises `MissingToolError` where there is none. To be called where it is needed, so that
    everything else runs without.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingToolError(f"simulation needs a POSIX system (Linux, or WSL on Windows): this "
                               f"Python has no module {name!r}") from None


def check_tools():
    """Raise `MissingToolError` unless this machine can compile and run simulations."""
    missing = [(what, package, name()) for name, what, package in _NEEDED
               if shutil.which(name()) is None]
    if missing:
        what = ", ".join(f"{what} ({name!r})" for what, _, name in missing)
        packages = " ".join(package for _, package, _ in missing)
        raise MissingToolError(f"simulation needs {what}: apt install {packages}")
    if find_libpython.find_libpython() is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise MissingToolError(
            f"simulation needs the shared library of Python {version}, which {sys.executable!r} "
            f"lacks: apt install libpython{version}, or with pyenv build Python with "
            f"PYTHON_CONFIGURE_OPTS=--enable-shared")


def main():
    """Print the problem and return the exit code, for the Makefile."""
    try:
        check_tools()
    except MissingToolError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
