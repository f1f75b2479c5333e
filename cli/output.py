"""Standard output and error, which may be closed, full, or a pipe that nobody reads any more."""

import contextlib
import errno
import os
import sys

__all__ = ["OutputError", "PipeClosedError", "guarded_output", "silence"]

_GONE = errno.EPIPE, errno.ESHUTDOWN


class OutputError(Exception):
    """Standard output does not take anything; the message says why."""


class PipeClosedError(OutputError):
    """Who read standard output has seen enough (``| head``)."""


class _Guarded:
    """A text stream whose errors cannot be taken for those of files, pipes and ports."""

    def __init__(self, stream):
        self._stream = stream

    def __getattr__(self, name):
        return getattr(self._stream, name)

    @property
    def buffer(self):
        """The bytes below, which are taken instead of a stream of ASCII text."""
        return _Guarded(self._stream.buffer)

    def write(self, text):
        with _explained():
            return self._stream.write(text)

    def writelines(self, lines):
        with _explained():
            self._stream.writelines(lines)

    def flush(self):
        with _explained():
            self._stream.flush()


@contextlib.contextmanager
def _explained():
    try:
        yield
    except OSError as error:
        if error.errno in _GONE:
            raise PipeClosedError("nobody reads standard output any more") from None
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from None


@contextlib.contextmanager
def guarded_output():
    """Have `OutputError` raised where standard output fails; it is line by line in between.

    Standard error may be closed: what is written to it then goes nowhere.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # print(file=None) is standard output
    if sys.stdout is None:
        raise OutputError("standard output is closed: send it to /dev/null if it is not wanted")
    if hasattr(sys.stdout, "reconfigure"):
        # Commands print a summary first and can take minutes: show it even through a pipe.
        sys.stdout.reconfigure(line_buffering=True)
    with contextlib.redirect_stdout(_Guarded(sys.stdout)):
        yield
        sys.stdout.flush()


def silence(stream):
    """Send what `stream` still holds, and gets, to nowhere, so that its end raises nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as null:
        os.dup2(null.fileno(), stream.fileno())
