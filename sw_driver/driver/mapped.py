"""Transport over memory-mapped registers: an accelerator on the bus of the processor's own chip."""

import errno
import mmap
import os
import time
from collections import deque

import numpy as np

from systola.hw.contract.stream_registers import (
    SIZE,
    STREAM_MAGIC,
    STREAM_REGISTERS,
    WORD_BYTES,
    beat_words,
)
from systola.sw_driver.driver.errors import IdentityError, LinkError
from systola.sw_driver.driver.transport import Transport

__all__ = ["MappedTransport", "Mapping"]

_PAUSE = 0.0005
"""Seconds between two looks when nothing moves."""

_COUNT = STREAM_REGISTERS["RECEIVE_COUNT"]
_STATUS = STREAM_REGISTERS["STREAM_STATUS"]


class Mapping:
    """The registers in this process's memory, each access one aligned word of 32 bits.

    Parameters
    ----------
    path : str
        ``/dev/mem``, or ``/dev/uioN`` of a UIO device whose first map is the accelerator.
    base : int
        Byte address in `path`: the physical one for ``/dev/mem``, 0 for UIO.

    Raises
    ------
    ValueError
        If `base` is not the beginning of a page, or `path` ends before the registers do.
    OSError
        If `path` cannot be opened or mapped; the message says what may help.
    """

    def __init__(self, path, base=0):
        if not isinstance(base, int) or base < 0 or base % mmap.PAGESIZE:
            raise ValueError(f"base must be a multiple of the page size {mmap.PAGESIZE:#x}, not "
                             f"{base:#x}" if isinstance(base, int) else
                             f"base must be an integer, not {base!r}")
        if not hasattr(os, "O_SYNC"):  # not on Windows
            raise OSError(errno.ENOSYS, "registers in memory need Linux; --port works here", path)
        try:
            file = os.open(path, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
        except OSError as error:
            raise _explained(path, error) from None
        try:
            self._memory = mmap.mmap(file, SIZE, offset=base)
        except OSError as error:
            raise _explained(path, error) from None
        except (ValueError, OverflowError):  # of a regular file
            raise ValueError(f"{path} must have the {SIZE} bytes of the registers at {base:#x}; "
                             f"it ends before") from None
        finally:
            os.close(file)
        self._words = np.frombuffer(self._memory, np.uint32)

    def read(self, offset):
        """Return the word at byte `offset`."""
        return int(self._words[self._index(offset)])

    def write(self, offset, value):
        """Write the word at byte `offset`."""
        self._words[self._index(offset)] = value

    def _index(self, offset):
        if self._words is None:
            raise ValueError("the mapping is closed")
        if offset % WORD_BYTES or not 0 <= offset < SIZE:
            raise ValueError(f"offset must be a multiple of {WORD_BYTES} from 0 to "
                             f"{SIZE - WORD_BYTES:#x}, not {offset:#x}")
        return offset // WORD_BYTES

    def close(self):
        """Release the mapping."""
        if self._words is not None:
            self._words = None  # the memory can only be released when nothing looks at it
            self._memory.close()


def _explained(path, error):
    """Return `error` with a message that says what may help."""
    hint = {errno.ENOENT: "there is no such device: is its driver loaded, the device tree right?",
            errno.EACCES: "permission denied: run as root, or give your user the device by a udev "
                          "rule",
            errno.EPERM: "the kernel does not permit it: run as root; /dev/mem also needs a kernel "
                         "that does not protect the address (UIO works with every one)",
            errno.EINVAL: "the device has no registers there, or fewer than needed: check the "
                          "address and the size in the device tree",
            errno.ENXIO: "the device has no registers there: check the address"}
    return OSError(error.errno, hint.get(error.errno, os.strerror(error.errno)), path)


class MappedTransport(Transport):
    """The accelerator of ``hw/mapped.py``; making a transport resets it.

    Parameters
    ----------
    registers : Mapping
        Or anything with its ``read``, ``write`` and ``close``.
    stall : float
        Seconds that the accelerator may neither take nor give a word while a program is sent.

    Raises
    ------
    IdentityError
        If the registers are not those of an accelerator with mapped streams.
    LinkError
        From `send` and `receive`: the accelerator takes nothing, or words were lost because
        something else uses the registers as well.
    """

    def __init__(self, registers, *, stall=10.0):
        if not stall > 0:
            raise ValueError(f"stall must be positive, not {stall!r}")
        self._registers, self.stall = registers, stall
        found = self._read("STREAM_ID")
        if found != STREAM_MAGIC:
            raise IdentityError(f"register STREAM_ID must read {STREAM_MAGIC:#x}, not {found:#x}: "
                                f"is an accelerator of `systola generate --mapped` at this "
                                f"address?")
        self._beat = self._read("STREAM_BEAT")
        self.flush()

    @classmethod
    def open(cls, path, base=0, **options):
        """Return a transport to the registers at `base` of the device `path` (see `Mapping`)."""
        registers = Mapping(path, base)
        try:
            return cls(registers, **options)
        except BaseException:
            registers.close()
            raise

    def _read(self, name):
        return self._registers.read(STREAM_REGISTERS[name].offset)

    def _write(self, name, value):
        self._registers.write(STREAM_REGISTERS[name].offset, value)

    def read_register(self, offset):
        """Return the 32-bit register at byte `offset`."""
        return self._registers.read(offset)

    def write_register(self, offset, value):
        """Write the 32-bit register at byte `offset`."""
        self._registers.write(offset, value)

    def send(self, data):
        """Write `data` to the input stream, taking results whenever it has no space."""
        if len(data) % self._beat:
            raise ValueError(f"data must be whole beats of {self._beat} bytes, not {len(data)} "
                             f"bytes")
        padding = beat_words(self._beat) * WORD_BYTES - self._beat
        beats = np.frombuffer(data, np.uint8).reshape(-1, self._beat)
        words = np.pad(beats, ((0, 0), (0, padding))).reshape(-1).view("<u4")
        done, last = 0, self.clock()
        while done < len(words):
            free = self._read("SEND_FREE")
            for word in words[done:done + free]:
                self._write("SEND_DATA", int(word))
            done += free
            if free or self._collect():
                last = self.clock()
            elif self.clock() - last >= self.stall:
                raise LinkError(f"the accelerator has taken nothing for {self.stall:g} s: reset it")
            else:
                time.sleep(_PAUSE)
        self._check()

    def receive(self, timeout):
        """Return the next result frame."""
        deadline = self.clock() + timeout
        while not self._frames:
            if not self._collect():
                if self.clock() >= deadline:
                    raise TimeoutError(f"no result frame within {timeout:g} s")
                time.sleep(_PAUSE)
        return self._frames.popleft()

    def _collect(self):
        """Take the words that are there; returns how many."""
        count = self._read("RECEIVE_COUNT")
        words = _COUNT.field("words").get(count)
        self._words += [self._read("RECEIVE_DATA") for _ in range(words)]
        if _COUNT.field("last").get(count):
            self._check()
            beats = np.array(self._words, "<u4").view(np.uint8)
            beats = beats.reshape(-1, beat_words(self._beat) * WORD_BYTES)[:, :self._beat]
            self._frames.append(beats.tobytes())
            self._words = []
        return words

    def _check(self):
        status = self._read("STREAM_STATUS")
        if status:
            names = [field.name for field in _STATUS.fields if field.get(status)]
            raise LinkError(f"stream words went {' and '.join(names)}: does another process use "
                            f"the accelerator? Reset it")

    def flush(self):
        """Reset the accelerator and both streams."""
        self._write("STREAM_CONTROL", STREAM_REGISTERS["STREAM_CONTROL"].field("reset").mask)
        self._frames, self._words = deque(), []

    def close(self):
        """Release the registers; the accelerator stays as it is."""
        self._registers.close()
