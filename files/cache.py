"""Folders kept for the next time, named by the hash of all that they were made from."""

import ast
import hashlib
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

__all__ = ["cache_dir", "entry", "sources_of"]

_PACKAGE = "systola"
_ROOT = Path(__file__).resolve().parents[1]


def cache_dir():
    """Return the folder of all entries (``SYSTOLA_CACHE``, or ``build/sim``), made if need be."""
    folder = Path(os.environ.get("SYSTOLA_CACHE", "build/sim")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def entry(name, parts):
    """Yield ``(folder, fill)``: an entry, and where to make it if it does not exist yet, or None.

    The entry appears in one step when the body has succeeded, under a lock that other processes
    wait for. `parts` is everything that it is made from, bytes or JSON values.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    folder = cache_dir() / f"{name}-{digest.hexdigest()[:20]}"
    if folder.is_dir():
        yield folder, None
        return
    import fcntl  # not everywhere, and only needed here

    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            yield folder, None
            return
        with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=cache_dir()) as work:
            fill = Path(work) / "entry"
            fill.mkdir()
            yield folder, fill
            fill.rename(folder)


def sources_of(*modules):
    """Return the contents of modules and of all of this package that they import, also indirectly.

    A module of another package counts, its imports from there do not.
    """
    found, left = {}, list(modules)
    while left:
        path = _file(left.pop())
        if path is not None and path not in found:
            found[path] = path.read_bytes()
            left += _imported(found[path])
    return [found[path] for path in sorted(found)]


def _file(module):
    """Return the file of a module, None if it is none (but a name in one, or a folder)."""
    if module.startswith(f"{_PACKAGE}."):
        path = _ROOT / (module.removeprefix(f"{_PACKAGE}.").replace(".", "/") + ".py")
    else:
        path = Path(getattr(sys.modules.get(module), "__file__", None) or "")
    return path if path.is_file() else None


@cache
def _imported(source):
    """Return the modules of this package, and names in them, that a source imports."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.startswith(f"{_PACKAGE}.")]
