"""Program image: the stream of instructions and data of one model, with what is around it.

File layout, little-endian: magic (8 bytes), version (u32), sections (u32), configuration hash
(u64), CRC-32 of the section table (u32), then the table (name of 8 bytes, offset u64, length u64,
CRC-32 u32 each), then the sections one after the other. ``meta`` is JSON, ``stream`` the bytes
for the accelerator. Nothing in a file is trusted: every length and checksum is checked on reading.
"""

import dataclasses
import json
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from systola.hw.config import AcceleratorConfig, ConfigError

__all__ = ["MAGIC", "VERSION", "InputSlot", "OutputPart", "OutputTensor", "Program",
           "ProgramError", "decode_outputs"]

MAGIC = b"SYSTOLA\x01"
VERSION = 2
_HEADER = struct.Struct("<8sIIQI")
_ENTRY = struct.Struct("<8sQQI")
_SECTIONS = ("meta", "stream")


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
    code, and two are the bytes of a 16-bit number.
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
    """A named result, its shape in the model and the parts it is put together from."""

    name: str
    shape: tuple
    parts: tuple


@dataclass(frozen=True, kw_only=True)
class Program:
    """A compiled model.

    ``names`` says what each instruction between BEGIN and END computes, for reports.
    ``frames`` lists the beats of every result frame in order. ``model`` holds the model's sizes,
    ``predicted`` the compiler's cycle estimate (see ``predict.Prediction.to_dict``), ``macs`` the
    model's multiply-accumulates, each counted once.
    """

    config: AcceleratorConfig
    stream: bytes
    inputs: tuple
    outputs: tuple
    frames: tuple
    instructions: int
    macs: int
    model: dict = field(default_factory=dict)
    predicted: dict = field(default_factory=dict)
    names: tuple = ()

    def fill(self, inputs):
        """Return the stream with `inputs` in place.

        `inputs` is a dict of integer arrays (rows, channels): codes of 8 bits, or numbers of 16
        for an input of two planes. Raises `ProgramError` for a missing or unknown name, a wrong
        shape, or a value out of range.
        """
        slots = {}
        for slot in self.inputs:
            slots.setdefault(slot.name, []).append(slot)
        if sorted(inputs) != sorted(slots):
            raise ProgramError(f"inputs must be {', '.join(slots)}, "
                               f"not {', '.join(map(str, inputs)) or 'nothing'}")
        stream = bytearray(self.stream)
        for name, parts in slots.items():
            values = _checked_input(name, np.asarray(inputs[name]), parts)
            for slot in parts:
                data = self._beats(slot, values[slot.row:slot.row + slot.rows])
                stream[slot.offset:slot.offset + len(data)] = data
        return bytes(stream)

    def _beats(self, slot, values):
        """Return the bytes of a slot's beats."""
        lanes = np.zeros((slot.rows, slot.planes, slot.words * self.config.rows), np.uint8)
        for plane in range(slot.planes):
            lanes[:, plane, :slot.channels] = values >> 8 * plane & 255
        beats = np.zeros((slot.rows * slot.planes * slot.words, self.config.bus_bytes), np.uint8)
        beats[:, :self.config.rows] = lanes.reshape(-1, self.config.rows)
        return beats.tobytes()

    def write(self, path):
        """Write the image to `path`; it appears there complete or not at all."""
        path = Path(path)
        meta = {key: value for key, value in dataclasses.asdict(self).items() if key != "stream"}
        meta["config"] = self.config.to_dict()
        sections = [json.dumps(meta, sort_keys=True).encode(), self.stream]
        table, offset = b"", _HEADER.size + _ENTRY.size * len(sections)
        for name, data in zip(_SECTIONS, sections, strict=True):
            table += _ENTRY.pack(name.encode(), offset, len(data), zlib.crc32(data))
            offset += len(data)
        header = _HEADER.pack(MAGIC, VERSION, len(sections), self.config.hash, zlib.crc32(table))
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(b"".join((header, table, *sections)))
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise

    @classmethod
    def read(cls, path):
        """Read and check the image at `path`; raises `ProgramError` naming what is wrong."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ProgramError(f"program {str(path)!r} cannot be read: {error.strerror}") from None
        try:
            return cls.from_bytes(data)
        except ProgramError as error:
            raise ProgramError(f"program {str(path)!r}: {error}") from None

    @classmethod
    def from_bytes(cls, data):
        """Check and decode the bytes of an image; raises `ProgramError`."""
        sections, config_hash = _split(data)
        try:
            meta = json.loads(sections["meta"])
            return _program(meta, sections["stream"], config_hash)
        except ProgramError:
            raise
        except ConfigError as error:
            raise ProgramError(f"configuration: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ProgramError(f"meta section is malformed: {error!r}") from None


def _checked_input(name, values, parts):
    """Return `values` as int64 if they are what the slots `parts` take."""
    shape = sum(slot.rows for slot in parts), parts[0].channels
    limit = 1 << 8 * parts[0].planes - 1
    if values.shape != shape:
        raise ProgramError(f"input {name} must have shape {shape}, not {values.shape}")
    if values.dtype.kind not in "iu" or values.min() < -limit or values.max() >= limit:
        raise ProgramError(f"input {name} must hold integers from {-limit} to {limit - 1}")
    return values.astype(np.int64)


def _split(data):
    """Return the checked sections of an image by name, and the configuration hash."""
    if len(data) < _HEADER.size:
        raise ProgramError(f"truncated: {len(data)} bytes, the header has {_HEADER.size}")
    magic, version, count, config_hash, table_crc = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ProgramError(f"not a program image: magic must be {MAGIC!r}, not {magic!r}")
    if version != VERSION:
        raise ProgramError(f"version must be {VERSION}, not {version}")
    if count != len(_SECTIONS):
        raise ProgramError(f"section count must be {len(_SECTIONS)}, not {count}")
    position = _HEADER.size + count * _ENTRY.size
    if len(data) < position:
        raise ProgramError(f"truncated: {len(data)} bytes, the section table ends at {position}")
    table = data[_HEADER.size:position]
    if zlib.crc32(table) != table_crc:
        raise ProgramError("section table fails its CRC-32")
    sections = {}
    for expected, entry in zip(_SECTIONS, _ENTRY.iter_unpack(table), strict=True):
        name, offset, length, crc = entry
        if name.rstrip(b"\0") != expected.encode() or offset != position:
            raise ProgramError(f"section table must list {expected!r} at {position}, "
                               f"not {name!r} at {offset}")
        position += length
        if len(data) < position:
            raise ProgramError(f"truncated: {len(data)} bytes, section {expected!r} "
                               f"ends at {position}")
        sections[expected] = data[offset:position]
        if zlib.crc32(sections[expected]) != crc:
            raise ProgramError(f"section {expected!r} fails its CRC-32")
    if len(data) != position:
        raise ProgramError(f"{len(data) - position} bytes of trailing data")
    return sections, config_hash


def _program(meta, stream, config_hash):
    """Build the program from decoded metadata, checking every reference it makes."""
    config = AcceleratorConfig.from_dict(meta.pop("config"))
    if config.hash != config_hash:
        raise ProgramError(f"configuration hash must be {config.hash:#018x}, "
                           f"not {config_hash:#018x}")
    inputs = tuple(InputSlot(**slot) for slot in meta.pop("inputs"))
    outputs = tuple(
        OutputTensor(name=tensor["name"], shape=tuple(tensor["shape"]),
                     parts=tuple(OutputPart(**part) for part in tensor["parts"]))
        for tensor in meta.pop("outputs"))
    program = Program(config=config, stream=stream, inputs=inputs, outputs=outputs,
                      frames=tuple(meta.pop("frames")),
                      names=tuple(map(str, meta.pop("names"))), **meta)
    if len(stream) % config.bus_bytes:
        raise ProgramError(f"stream must be whole beats of {config.bus_bytes} bytes, "
                           f"not {len(stream)} bytes")
    rows = {}
    for slot in inputs:
        _check_slot(slot, config, len(stream), rows)
    for tensor in outputs:
        for part in tensor.parts:
            _check_part(tensor, part, program.frames, config)
    return program


def _check_slot(slot, config, length, rows):
    """Check a slot and that it continues its input, of which `rows` says how far it is."""
    numbers = (slot.offset, slot.row, slot.rows, slot.channels, slot.planes, slot.words)
    size = slot.rows * slot.planes * slot.words * config.bus_bytes
    if (not all(isinstance(number, int) and number >= 0 for number in numbers)
            or slot.planes not in (1, 2)
            or slot.offset + size > length or slot.channels > slot.words * config.rows):
        raise ProgramError(f"input {slot.name!r} does not lie inside the stream")
    kind = slot.channels, slot.planes
    before, same = rows.get(slot.name, (0, kind))
    if slot.row != before or same != kind:
        raise ProgramError(f"input {slot.name!r} must be whole, its rows in order")
    rows[slot.name] = slot.row + slot.rows, kind


def _check_part(tensor, part, frames, config):
    numbers = [value for name, value in dataclasses.asdict(part).items() if name != "head"]
    heads = tensor.shape[0] if len(tensor.shape) == 3 else None
    shape = (1, *tensor.shape)[-2:]
    if (not all(isinstance(number, int) and number >= 0 for number in (*numbers, *tensor.shape))
            or part.frame >= len(frames)
            or part.planes * part.rows * part.words != frames[part.frame]
            or part.lane + part.columns > part.words * config.rows
            or (part.head is None) != (heads is None)
            or (heads is not None and not 0 <= part.head < heads)
            or part.row + part.rows > shape[0] or part.column + part.columns > shape[1]):
        raise ProgramError(f"output {tensor.name!r} does not match its result frames")


def decode_outputs(program, frames):
    """Return the result tensors, a dict of int64 arrays by name in the model's shapes.

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
    return {tensor.name: _assemble(tensor, words) for tensor in program.outputs}


def _assemble(tensor, words):
    shape = tensor.shape if len(tensor.shape) > 1 else (1, *tensor.shape)
    out = np.zeros(shape, np.int64)
    for part in tensor.parts:
        planes = words[part.frame].reshape(part.rows, part.planes, -1).swapaxes(0, 1)
        lanes = planes[:, :, part.lane:part.lane + part.columns]
        target = out if part.head is None else out[part.head]
        target[part.row:part.row + part.rows,
               part.column:part.column + part.columns] = _combine(lanes, part.digit_bits)
    return out.reshape(tensor.shape)


def _combine(planes, digit_bits):
    """Return the numbers of raw byte `planes` (planes, rows, columns)."""
    signed = planes.astype(np.int8).astype(np.int64)
    if digit_bits:
        digits = [*signed[:-1], planes[-1].astype(np.int64)]
        return sum(digit << digit_bits * index for index, digit in enumerate(digits))
    return signed[0] if len(planes) == 1 else planes[0] + (signed[1] << 8)
