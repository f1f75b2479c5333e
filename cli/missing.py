"""Which package is missing, and what it is for: an installation may have only those of one job."""

import re
from importlib.metadata import PackageNotFoundError, requires

__all__ = ["MODULES", "missing"]

MODULES = {"PIL": "pillow", "cocotb_tools": "cocotb", "cocotbext": "cocotbext-axi",
           "find_libpython": "cocotb", "serial": "pyserial", "sklearn": "scikit-learn"}
"""Packages of modules that have another name."""

_EXTRA = re.compile(r"""(?P<requirement>[^;]+);.*extra == ["'](?P<extra>[^"']+)""")


def missing(error):
    """Return one line for an `ImportError`: the extra that the package is of, and what installs it.

    Not the extra installs it but the package: pip would install those of all other jobs with it.
    """
    module = (error.name or "").partition(".")[0]
    package = MODULES.get(module, module).replace("_", "-")
    found = [match for match in map(_EXTRA.match, _requirements())
             if re.match(r"[\w-]+", match["requirement"])[0] == package]
    if package == "systola" or not found or not isinstance(error, ModuleNotFoundError):
        return (f"{error}: the installation is not complete, or does not fit this Python; "
                f"pip install systola repairs it")
    extras = " and ".join(repr(match["extra"]) for match in found)
    return (f"this needs the package {package}, of the extra {extras}: "
            f"pip install {found[0]['requirement'].strip()!r}")


def _requirements():
    try:
        return [line for line in requires("systola") or () if "extra ==" in line]
    except PackageNotFoundError:
        return ()
