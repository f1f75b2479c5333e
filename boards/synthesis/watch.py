"""Running tools that take long: what they say on the way, a time limit, and nothing left behind."""

import contextlib
import os
import signal
import subprocess
import threading
import time

__all__ = ["OutOfTime", "end_all", "tail", "watch"]

_SECONDS = 0.2
"""Between two looks."""


_ended = threading.Event()


class OutOfTime(RuntimeError):
    """A tool took longer than it was given, and was ended."""


def watch(command, folder, *, stdout, stderr, limit=None, look=None):
    """Run `command` in `folder` to its end; return its exit code, negative for a signal.

    Parameters
    ----------
    command : list of str
        Program and arguments.
    folder : str or Path
        Where it runs.
    stdout, stderr
        As for `subprocess.Popen`.
    limit : float, optional
        Most seconds that it may take.
    look : callable, optional
        Called a few times a second while it runs.

    Raises
    ------
    OutOfTime
        If it took longer; by then it has ended, with all that it started.
    OSError
        If it cannot be started.
    InterruptedError
        After `end_all`.
    """
    if _ended.is_set():
        raise InterruptedError(f"{command[0]} was not started: the command was interrupted")
    started = time.monotonic()
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=stdout,
                          stderr=stderr, start_new_session=True) as process:
        try:
            while process.poll() is None and not _ended.is_set():
                if limit is not None and time.monotonic() - started > limit:
                    raise OutOfTime
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_SECONDS)
                if look is not None:
                    look()
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return process.returncode


def end_all():
    """End every tool that runs, in any thread, at its next look, and start none any more.

    Tools have sessions of their own, which no signal for this process reaches; and a thread that
    waits for one would not be told.
    """
    _ended.set()


def tail(path, size=4096):
    """Return the end of a growing file, up to `size` bytes; nothing if it is not there yet."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")
