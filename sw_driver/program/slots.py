"""Where a program's inputs go in its stream, and how its outputs come out of the results."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np

from systola.files.bounded import shown
from systola.model.operators.log2_exponentials import decoded, unpacked

__all__ = ["MOST_IMAGES", "InputSlot", "OutputPart", "OutputTensor", "ProgramError",
           "decode_outputs", "is_count", "read_frames", "read_inputs", "read_outputs"]

MOST_IMAGES = 4096
"""Most images of a program."""

_DIGITS = 16
"""Most planes that make up a number."""

_SPARSE = 16
"""Most elements of a result for each one that the frames have."""


class ProgramError(ValueError):
    """A program image or its inputs cannot be used; the message is one line and says why."""


@dataclass(frozen=True, kw_only=True)
class InputSlot:
    """Where ``rows`` rows from ``row`` on, of ``channels`` numbers, go in the stream.

    A row is ``planes`` times ``words`` beats: codes of 8 bits in one plane, or numbers of 16 bits
    as two planes of bytes, low before high. ``offset`` counts bytes from the start of the stream.
    Slots of the same name make up one input.
    """

    name: str
    offset: int
    row: int
    rows: int
    channels: int
    planes: int
    words: int


@dataclass(frozen=True, kw_only=True)
class OutputPart:
    """One rectangle of an output tensor inside a result frame.

    The frame is ``rows`` rows of ``planes`` planes of ``words`` words. ``columns`` channels from
    lane ``lane`` of every row become the tensor's ``[head, row:row + rows, column:column +
    columns]`` (no ``head`` axis when ``head`` is None). With ``digit_bits`` plane i weighs
    ``2**(digit_bits*i)`` and the top one is unsigned; with ``digit_bits`` 0 one plane is a signed
    code, and two are the bytes of a 16-bit number. Digits are attention: of an accelerator with
    log2 attention one plane of codes of exponentials, two words of them in one.
    """

    frame: int
    planes: int
    digit_bits: int
    rows: int
    words: int
    lane: int
    columns: int
    head: int | None
    row: int
    column: int


@dataclass(frozen=True, kw_only=True)
class OutputTensor:
    """A named result, its shape for all images and the parts it is put together from.

    The shape is (rows, channels), or (heads, rows, keys) of attention; rows of an image follow
    those of the one before.
    """

    name: str
    shape: tuple
    parts: tuple


def is_count(value, high, low=0):
    """Tell whether `value` is an integer from `low` to `high`."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def read_inputs(items, config, length, images):
    """Return the `InputSlot` of every table of `items`, for a stream of `length` bytes.

    Raises `ProgramError` unless all lie inside the stream, apart from each other, and the slots of
    an input are its rows in order, as many for each of `images` images.
    """
    slots = tuple(_build(InputSlot, item, length, "an input") for item in _listed(items, "inputs"))
    beat, end, kinds, rows = config.bus_bytes, 0, {}, {}
    for slot in slots:
        kind = slot.channels, slot.planes
        if slot.row != rows.get(slot.name, 0) or kinds.setdefault(slot.name, kind) != kind:
            raise ProgramError(f"input {shown(slot.name)} must be whole, its rows in order")
        rows[slot.name] = slot.row + slot.rows
    for name, count in rows.items():
        if count % images:
            raise ProgramError(f"input {shown(name)} must have rows for {images} images, "
                               f"not {count}")
    for slot in sorted(slots, key=lambda slot: slot.offset):
        if (not min(slot.rows, slot.channels, slot.words) or slot.planes not in (1, 2)
                or slot.offset % beat or slot.channels > slot.words * config.rows
                or slot.offset + slot.rows * slot.planes * slot.words * beat > length):
            raise ProgramError(f"input {shown(slot.name)} does not lie inside the stream")
        if slot.offset < end:
            raise ProgramError(f"input {shown(slot.name)} must not overlap another")
        end = slot.offset + slot.rows * slot.planes * slot.words * beat
    return slots


def read_frames(items, config):
    """Return the beats of every result frame; raises `ProgramError`.

    A frame is what one instruction reads from the scratchpad, each word at most once.
    """
    high = config.scratchpad_words
    for beats in _listed(items, "frames"):
        if not is_count(beats, high, low=1):
            raise ProgramError(f"a result frame must have 1 to {high} beats, not {shown(beats)}")
    return tuple(items)


def read_outputs(items, frames, config, images):
    """Return the `OutputTensor` of every table of `items`; raises `ProgramError`.

    All of an output's elements must come from frames, or one in `_SPARSE` of attention (the others
    are 0: keys of shorter sequences), and no more from a frame than it has lanes: so outputs never
    need more memory than a bounded number of times what the results have.
    """
    tensors, left = [], [beats * config.rows for beats in frames]
    for item in _listed(items, "outputs"):
        tensor = _build(OutputTensor, item, 0, "an output")
        where = f"output {shown(tensor.name)}"
        shape = _listed(tensor.shape, f"shape of {where}")
        parts = tuple(_build(OutputPart, part, 2**32, f"a part of {where}")
                      for part in _listed(tensor.parts, f"parts of {where}"))
        if len(shape) not in (2, 3) or not all(is_count(size, 2**32, low=1) for size in shape):
            raise ProgramError(f"shape of {where} must be 2 or 3 positive integers, "
                               f"not {shown(shape)}")
        if shape[-2] % images:
            raise ProgramError(f"{where} must have rows for {images} images, not {shape[-2]}")
        for part in parts:
            _check_part(part, shape, frames, config, where)
            lanes = part.rows * part.columns * part.planes
            left[part.frame] -= -(-lanes // 2) if _is_packed(part, config) else lanes
        covered = sum(part.rows * part.columns for part in parts)
        most = covered * (_SPARSE if len(shape) == 3 else 1)
        if not covered <= math.prod(shape) <= most or min(left, default=0) < 0:
            raise ProgramError(f"{where} must take every element from one place of its frames")
        tensors.append(dataclasses.replace(tensor, shape=tuple(shape), parts=parts))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ProgramError("every output must have a name of its own")
    return tuple(tensors)


def _is_packed(part, config):
    """Return whether a part is of codes of exponentials."""
    return bool(config.levels and part.digit_bits)


def _check_part(part, shape, frames, config, where):
    heads = shape[0] if len(shape) == 3 else None
    height, width = (1, *shape)[-2:]
    packed = _is_packed(part, config)
    if (part.frame >= len(frames)
            or part.planes * part.rows * part.words != frames[part.frame]
            or part.lane + part.columns > part.words * config.rows << packed
            or part.planes > (1 if packed else _DIGITS if part.digit_bits else 2)
            or part.digit_bits > 8
            or (part.head is None) != (heads is None)
            or (heads is not None and part.head >= heads)
            or not part.columns
            or part.row + part.rows > height or part.column + part.columns > width):
        raise ProgramError(f"{where} does not match its result frames")


def _listed(items, what):
    if not isinstance(items, list):
        raise ProgramError(f"{what} must be a list, not {shown(items)}")
    return items


def _build(kind, item, high, what):
    """Return a `kind` of the table `item`: just its fields, integers from 0 to `high`."""
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    if not isinstance(item, dict) or item.keys() != fields.keys():
        raise ProgramError(f"{what} must have {', '.join(fields)}, not {shown(item)}")
    for name, expected in fields.items():
        value = item[name]
        if expected is str and not isinstance(value, str):
            raise ProgramError(f"{name} of {what} must be text, not {shown(value)}")
        if (expected is int or (name == "head" and value is not None)) and not is_count(value,
                                                                                       high):
            raise ProgramError(f"{name} of {what} must be an integer from 0 to {high}, "
                               f"not {shown(value)}")
    return kind(**item)


def decode_outputs(program, frames):
    """Return the result tensors, a dict of int64 arrays by name in the network's shapes.

    A program for several images gives them a leading axis.

    `frames` is the list of result frames, each (beats, bus bytes or R lanes) uint8 or the same
    flat. Raises `ProgramError` if their number or sizes are not the program's.
    """
    if len(frames) != len(program.frames):
        raise ProgramError(f"result must have {len(program.frames)} frames, not {len(frames)}")
    words = []
    for index, (frame, beats) in enumerate(zip(frames, program.frames, strict=True)):
        data = np.asarray(frame, np.uint8).reshape(-1)
        if data.size not in (beats * program.config.rows, beats * program.config.bus_bytes):
            raise ProgramError(f"result frame {index} must have {beats} beats, "
                               f"not {data.size} bytes")
        words.append(data.reshape(beats, -1)[:, :program.config.rows])
    return {tensor.name: _apart(_assemble(tensor, words, program.config), program.images)
            for tensor in program.outputs}


def _apart(values, images):
    """Return the rows of each of several images under a leading axis."""
    if images == 1:
        return values
    *heads, rows, columns = values.shape
    return np.moveaxis(values.reshape(*heads, images, rows // images, columns), -3, 0)


def _assemble(tensor, words, config):
    out = np.zeros(tensor.shape, np.int64)
    for part in tensor.parts:
        planes = words[part.frame].reshape(part.rows, part.planes, -1).swapaxes(0, 1)
        if _is_packed(part, config):
            planes = decoded(unpacked(planes, config.rows), config.levels)
        lanes = planes[:, :, part.lane:part.lane + part.columns]
        target = out if part.head is None else out[part.head]
        target[part.row:part.row + part.rows,
               part.column:part.column + part.columns] = _combine(lanes, part.digit_bits)
    return out


def _combine(planes, digit_bits):
    """Return the numbers of raw byte `planes` (planes, rows, columns)."""
    signed = planes.astype(np.int8).astype(np.int64)
    if digit_bits:
        digits = [*signed[:-1], planes[-1].astype(np.int64)]
        return sum(digit << digit_bits * index for index, digit in enumerate(digits))
    return signed[0] if len(planes) == 1 else planes[0] + (signed[1] << 8)
