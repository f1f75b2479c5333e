"""Program image: the stream of instructions and data of one model, with what is around it.

File layout, little-endian: magic (8 bytes), version (u32), sections (u32), configuration hash
(u64), CRC-32 of the section table (u32), then the table (name of 8 bytes, offset u64, length u64,
CRC-32 u32 each), then the sections one after the other. ``meta`` is JSON, ``stream`` the bytes
for the accelerator. Nothing in a file is trusted: every length and checksum is checked on reading.
"""

import dataclasses
import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from systola.files.at_once import write_at_once
from systola.files.bounded import parse_json, read_file, shorten, shown
from systola.hw.contract.config import AcceleratorConfig, ConfigError
from systola.hw.contract.isa import INSTRUCTION_BYTES
from systola.sw_driver.program.slots import (
    MOST_IMAGES,
    InputSlot,
    OutputPart,
    OutputTensor,
    ProgramError,
    decode_outputs,
    is_count,
    read_frames,
    read_inputs,
    read_outputs,
)

__all__ = ["MAGIC", "VERSION", "InputSlot", "OutputPart", "OutputTensor", "Program",
           "ProgramError", "decode_outputs"]

MAGIC = b"SYSTOLA\x01"
VERSION = 3
_HEADER = struct.Struct("<8sIIQI")
_ENTRY = struct.Struct("<8sQQI")
_SECTIONS = ("meta", "stream")
_FILE_BYTES, _META_BYTES = 2**30, 2**24
"""Most bytes of an image, and of its metadata, which take many times as much memory."""
_MACS = 2**62


@dataclass(frozen=True, kw_only=True)
class Program:
    """A compiled model.

    ``images`` are computed in one run: inputs and outputs have a leading axis if it is not 1.
    ``names`` says what each instruction between BEGIN and END computes, for reports.
    ``frames`` lists the beats of every result frame in order. ``model`` holds the model's sizes,
    ``predicted`` the compiler's cycle estimate (see ``predict.Prediction.to_dict``), ``macs`` the
    model's multiply-accumulates, each counted once, and ``work`` those with narrow ones as half: of
    these the array does two at a time.
    """

    config: AcceleratorConfig
    stream: bytes
    inputs: tuple
    outputs: tuple
    frames: tuple
    instructions: int
    macs: int
    work: int
    images: int = 1
    model: dict = field(default_factory=dict)
    predicted: dict = field(default_factory=dict)
    names: tuple = ()

    def fill(self, inputs):
        """Return the stream with `inputs` in place.

        `inputs` is a dict of integer arrays (rows, channels), or (images, rows, channels) if the
        program is for several: codes of 8 bits, or numbers of 16 for an input of two planes. Raises
        `ProgramError` for a missing or unknown name, a wrong shape, or a value out of range.
        """
        slots = {}
        for slot in self.inputs:
            slots.setdefault(slot.name, []).append(slot)
        if sorted(inputs) != sorted(slots):
            raise ProgramError(f"inputs must be {', '.join(slots)}, "
                               f"not {', '.join(map(str, inputs)) or 'nothing'}")
        stream = bytearray(self.stream)
        for name, parts in slots.items():
            values = _checked_input(name, np.asarray(inputs[name]), parts, self.images)
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
        write_at_once(path, b"".join((header, table, *sections)))

    @classmethod
    def read(cls, path):
        """Read and check the image at `path`; raises `ProgramError` naming what is wrong."""
        try:
            data = read_file(path, _FILE_BYTES)
        except (OSError, ValueError) as error:
            raise ProgramError(f"program {str(path)!r} cannot be read: "
                               f"{getattr(error, 'strerror', None) or error}") from None
        try:
            return cls.from_bytes(data)
        except ProgramError as error:
            raise ProgramError(f"program {str(path)!r}: {error}") from None

    @classmethod
    def from_bytes(cls, data):
        """Check and decode the bytes of an image; raises `ProgramError`."""
        sections, config_hash = _split(data)
        if len(sections["meta"]) > _META_BYTES:
            raise ProgramError(f"meta section must have at most {_META_BYTES} bytes, "
                               f"not {len(sections['meta'])}")
        try:
            meta = parse_json(sections["meta"])
        except ValueError as error:
            raise ProgramError(f"meta section is malformed: {shorten(error)}") from None
        return _program(meta, sections["stream"], config_hash)


def _checked_input(name, values, parts, images):
    """Return `values` as int64 (rows, channels) if they are what the slots `parts` take."""
    rows, channels = sum(slot.rows for slot in parts), parts[0].channels
    shape = (rows, channels) if images == 1 else (images, rows // images, channels)
    limit = 1 << 8 * parts[0].planes - 1
    if values.shape != shape:
        raise ProgramError(f"input {name} must have shape {shape}, not {values.shape}")
    if values.dtype.kind not in "iu" or values.min() < -limit or values.max() >= limit:
        raise ProgramError(f"input {name} must hold integers from {-limit} to {limit - 1}")
    return values.astype(np.int64).reshape(rows, channels)


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
    """Build the program from decoded metadata, checking everything in it."""
    expected = {field.name for field in dataclasses.fields(Program)} - {"stream"}
    if not isinstance(meta, dict) or meta.keys() != expected:
        raise ProgramError(f"meta section must have {', '.join(sorted(expected))}, "
                           f"not {shown(sorted(meta) if isinstance(meta, dict) else meta)}")
    if not isinstance(meta["config"], dict):
        raise ProgramError(f"configuration must be a table, not {shown(meta['config'])}")
    try:
        config = AcceleratorConfig.from_dict(meta["config"])
    except ConfigError as error:
        raise ProgramError(f"configuration: {error}") from None
    if config.hash != config_hash:
        raise ProgramError(f"configuration hash must be {config.hash:#018x}, "
                           f"not {config_hash:#018x}")
    if len(stream) % config.bus_bytes:
        raise ProgramError(f"stream must be whole beats of {config.bus_bytes} bytes, "
                           f"not {len(stream)} bytes")
    frames = read_frames(meta["frames"], config)
    _check_description(meta, len(stream) // INSTRUCTION_BYTES)
    return Program(**{
        **meta, "config": config, "stream": stream, "frames": frames,
        "inputs": read_inputs(meta["inputs"], config, len(stream), meta["images"]),
        "outputs": read_outputs(meta["outputs"], frames, config, meta["images"]),
        "names": tuple(meta["names"])})


def _check_description(meta, most):
    """Check what describes the stream, of `most` instructions at most."""
    count, names = meta["instructions"], meta["names"]
    for name, low, high in (("instructions", 0, most), ("macs", 0, _MACS), ("work", 0, _MACS),
                            ("images", 1, MOST_IMAGES)):
        if not is_count(meta[name], high, low):
            raise ProgramError(f"{name} must be an integer from {low} to {high}, "
                               f"not {shown(meta[name])}")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ProgramError(f"names must be a list of texts, not {shown(names)}")
    if len(names) not in (0, count - 2):
        raise ProgramError(f"names must be there for {max(count - 2, 0)} instructions or none, "
                           f"not {len(names)}")
    if len(meta["frames"]) > count:
        raise ProgramError(f"{count} instructions must not give {len(meta['frames'])} frames")
    for name in "model", "predicted":
        if not isinstance(meta[name], dict):
            raise ProgramError(f"{name} must be a table, not {shown(meta[name])}")
    cycles = meta["predicted"].get("cycles", 0)
    if not is_count(cycles, _MACS):
        raise ProgramError(f"predicted cycles must be an integer from 0 to {_MACS}, "
                           f"not {shown(cycles)}")
