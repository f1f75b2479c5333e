"""Arrays larger than memory: rows are read, or computed, when they are asked for."""

import math
import weakref

import numpy as np

__all__ = ["ROW_BYTES", "MappedRows", "Rows"]

ROW_BYTES = 2**28
"""Most bytes of a row: of one image."""


class Rows:
    """The rows of an array in a file, along its first dimension.

    Parameters
    ----------
    opener : callable
        Returns the file, which can be read and seeked; a compressed one starts anew for rows
        before those that it has given.
    offset : int
        Bytes before the array.
    shape : tuple of int
    dtype : dtype
    last : bool
        Nothing follows in the file: reading the last row shows that, and checks what a compressed
        file says of its content.

    Raises
    ------
    ValueError
        If a row has more than `ROW_BYTES`; on reading, if the file ends too early or too late.
    """

    def __init__(self, opener, offset, shape, dtype, *, last=False):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._opener, self._offset, self._file, self._last = opener, offset, None, last
        self._row = math.prod(self.shape[1:]) * self.dtype.itemsize
        if self._row > ROW_BYTES:
            raise ValueError(f"a row must have at most {ROW_BYTES:,} bytes, not {self._row:,}")

    def __getstate__(self):
        return {**self.__dict__, "_file": None}  # another process opens the file itself

    @property
    def ndim(self):
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self):
        """The number of elements."""
        return math.prod(self.shape)

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, part):
        """Return the rows of a slice, or of a sequence of indices, as an array in memory."""
        wanted = range(*part.indices(len(self))) if isinstance(part, slice) else part
        if isinstance(wanted, range) and wanted.step == 1:
            return self._read(wanted.start, len(wanted))
        parts = [self._read(index, 1) for index in wanted]
        return np.concatenate(parts) if parts else self._read(0, 0)

    def _read(self, start, count):
        if self._file is None:
            self._file = self._opener()
            weakref.finalize(self, self._file.close)
        self._file.seek(self._offset + start * self._row)
        data = self._file.read(count * self._row)
        if len(data) != count * self._row:
            raise ValueError(f"it ends within row {start + len(data) // max(self._row, 1)} of "
                             f"{len(self):,}")
        if self._last and start + count == len(self) and self._file.read(1):
            raise ValueError(f"it must end after {len(self):,} rows")
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


class MappedRows:
    """What a function makes of rows: it is computed when they are asked for.

    Parameters
    ----------
    rows : sequence
        Slices, and sequences of indices, give arrays: another one of these, or an array.
    function : callable
        Takes such an array, and returns one of as many rows.
    """

    def __init__(self, rows, function):
        self.rows, self.function = rows, function

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, part):
        return self.function(self.rows[part])
