"""Compile the kernel for the machine that it runs on, once, and load it.

It is kept where compiled simulations are. Its name there is the hash of its source and of all that
the compiler says of itself and of the processor, so that a folder that machines share never gives
one of them the instructions of another.
"""

import ctypes
import functools
import subprocess
from pathlib import Path

import numpy as np

from systola.files.cache import entry
from systola.files.compiler import compiler_command

__all__ = ["SOURCE", "KernelError", "Library", "load"]

SOURCE = Path(__file__).with_name("kernel.c")

_FLAGS = ["-x", "c", "-std=gnu11", "-O3"]
_SHARED = ["-fPIC", "-shared"]
_OWN = "-march=native"
_NAMES = {"__AVX512VNNI__": "AVX-512 VNNI", "__AVX512BW__": "AVX-512", "__AVXVNNI__": "AVX VNNI",
          "__AVX2__": "AVX2", "__ARM_NEON": "NEON"}


class KernelError(ValueError):
    """There is no kernel here; the message says why in one line."""


class Library:
    """The compiled kernel.

    Attributes
    ----------
    functions : ctypes.CDLL
        Its functions, which run without Python's global lock.
    about : dict
        ``compiler``, its version, and the ``instructions`` that products use, as text.
    has_fma : bool
        Whether a product and a sum are rounded once.
    """

    def __init__(self, path, about):
        self.functions, self.about = ctypes.CDLL(str(path)), about
        for name in "has_fma", "packed_bytes", "room_bytes":
            getattr(self.functions, name).restype = ctypes.c_int64
        self.has_fma = bool(self.functions.has_fma())

    def address(self, name):
        """Return the address of a function."""
        return ctypes.cast(getattr(self.functions, name), ctypes.c_void_p).value

    def call(self, name, *arguments):
        """Call a function with integers, and with arrays that it gets the addresses of."""
        return getattr(self.functions, name)(*(
            argument.ctypes if isinstance(argument, np.ndarray) else ctypes.c_int64(argument)
            for argument in arguments))


def load(flags=()):
    """Return the `Library` for this machine, compiled if need be.

    Parameters
    ----------
    flags : sequence of str
        Further flags of the compiler, for tests of what other machines run.

    Raises
    ------
    KernelError
        If there is no compiler, it fails, or there is no place for what it makes.
    """
    return _load(tuple(compiler_command()), tuple(flags), SOURCE)


@functools.cache
def _load(command, flags, source):
    try:
        own, macros = _machine(command, flags)
        text = source.read_bytes()
        with entry("kernel", [text, [*command, *_FLAGS, *_SHARED, *own, *flags], macros]) as (
                folder, fill):
            if fill:
                (fill / source.name).write_bytes(text)
                _run([*command, *_FLAGS, *_SHARED, *own, *flags, source.name, "-o", "kernel.so"],
                     cwd=fill)
        return Library(folder / "kernel.so", _about(command, macros.decode()))
    except ImportError as error:  # fcntl, which only POSIX systems have
        raise KernelError(f"the cache of compiled code needs a POSIX system: {error}") from None
    except OSError as error:
        raise KernelError(f"{error.filename or command[0]!r}: {error.strerror or error}") from None


def _machine(command, flags):
    """Return the flag for this very processor, if the compiler knows it, and its macros then.

    Among the macros are the instruction sets and the compiler's version.
    """
    for own in [_OWN], []:
        try:
            return own, _run([*command, *_FLAGS, *own, *flags, "-dM", "-E", "/dev/null"])
        except KernelError:
            if not own:
                raise
    return None


def _run(command, cwd=None):
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True,
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").split("\n")
        said = next((line for line in lines if "error" in line), lines[0]).strip()
        raise KernelError(f"{command[0]!r} cannot compile it: {said[:200]}")
    return done.stdout


def _about(command, macros):
    """Return what is worth knowing of a kernel, as plain data."""
    values = dict(line.split(" ", 2)[1:] for line in macros.splitlines() if line.count(" ") > 1)
    found = next((text for name, text in _NAMES.items() if name in values), "C")
    return {"compiler": f"{Path(command[0]).name} {values.get('__VERSION__', '').strip(chr(34))}",
            "instructions": found}
