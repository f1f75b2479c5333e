"""Writing a file that appears with all of its content, or not at all."""

import os
import tempfile
from pathlib import Path

__all__ = ["write_at_once"]


def write_at_once(path, content):
    """Write bytes to `path`; raises ``OSError`` and leaves what was there if that fails."""
    path = Path(path)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(part, 0o644)  # mkstemp's is for the owner alone
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
