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
from systola.files.toolchain import compiler_command

__all__ = ["FORMS", "SOURCE", "KernelError", "Library", "load"]

FORMS = {"c": (), "c-256": ("-DNARROW",), "c-avx2": ("-mno-avx512f", "-DWORDS"),
         "c-plain": ("-mno-avx",)}
"""Flags of the compiler: for this machine, and for what it has in common with older ones.

``c-256`` has vectors of 256 bits, ``c-avx2`` no products of bytes, ``c-plain`` what every x86-64
has; the last two are for x86-64 only.
"""

SOURCE = Path(__file__).with_name("kernel.c")

_FLAGS = ["-x", "c", "-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math"]
_SHARED = ["-fPIC", "-shared"]
_OWN = "-march=native"
_FILE = "kernel.so"
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
        for name in "has_fma", "keys_step", "packed_bytes", "room_bytes":
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


def load(form="c"):
    """Return the `Library` for this machine in one of `FORMS`, compiled if need be.

    Raises
    ------
    KernelError
        If there is no compiler, it fails, or there is no place for what it makes.
    """
    library, reason = _found(tuple(compiler_command()), FORMS[form])
    if reason:
        raise KernelError(reason)
    return library


@functools.cache
def _found(command, flags):
    """Return a library, or None and why there is none: what failed once is not tried again."""
    try:
        own, macros = _machine(command, flags)
        text, line = SOURCE.read_bytes(), [*command, *_FLAGS, *_SHARED, *own, *flags]
        with entry("kernel", [text, line, macros]) as (folder, fill):
            if fill:
                (fill / SOURCE.name).write_bytes(text)
                _run([*line, SOURCE.name, "-o", _FILE], cwd=fill)
        return Library(folder / _FILE, _about(command, macros.decode())), None
    except KernelError as error:
        return None, str(error)
    except ImportError as error:  # of fcntl
        return None, f"the cache of compiled code needs a POSIX system: {error}"
    except OSError as error:
        return None, f"{error.filename or command[0]!r}: {error.strerror or error}"


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
