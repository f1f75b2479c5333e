"""Bitstreams of Xilinx' 7 series, read back: header, device and frames (UG470, chapter 5)."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Bitstream", "BitstreamError", "check_bitstream", "frame_addresses", "read_bitstream",
           "read_frames"]

_SYNC = b"\xaa\x99\x55\x66"
_FRAME_WORDS = 101
_FDRI, _IDCODE = 2, 12
_BUSES = "CLB_IO_CLK", "BLOCK_RAM"
_PAD = 2
"""Frames without an address after each row."""

_ECC_WORD = 50
"""Of a frame; its low 13 bits are computed when the bitstream is written."""


class BitstreamError(ValueError):
    """A file is not a bitstream, or not the one that it should be; the message says why."""


@dataclass(frozen=True)
class Bitstream:
    """What a ``.bit`` file says.

    That is the `part` of its header, the `idcode` of the device that it is for, and its frames, as
    an array of `words` of 32 bits.
    """

    part: str
    idcode: int
    words: np.ndarray


def read_bitstream(path):
    """Return the `Bitstream` of a ``.bit`` file; raise `BitstreamError` if it is none."""
    data = Path(path).read_bytes()
    try:
        part, body = _header(data)
        start = body.index(_SYNC) + len(_SYNC)
        registers = _registers(np.frombuffer(body[start:len(body) - (len(body) - start) % 4],
                                             ">u4"))
        return Bitstream(part, int(registers[_IDCODE][0]), registers[_FDRI])
    except (ValueError, IndexError, KeyError, struct.error):
        raise BitstreamError(f"{Path(path).name} must be a bitstream with header, device and "
                             "frames, but is not") from None


def _header(data):
    """Return the part that a header names, and what follows the header."""
    place = struct.unpack_from(">H", data)[0] + 4
    fields = {}
    while (key := data[place:place + 1]) != b"e":
        size = struct.unpack_from(">H", data, place + 1)[0]
        fields[key] = data[place + 3:place + 3 + size].rstrip(b"\0").decode()
        place += 3 + size
    size = struct.unpack_from(">I", data, place + 1)[0]
    body = data[place + 5:]
    if len(body) != size:
        raise ValueError("length")
    return fields[b"b"], body


def _registers(words):
    """Return what packets write, by register; of one written twice the longer data."""
    found, place, register = {}, 0, None
    while place < len(words):
        packet = int(words[place])
        kind, write = packet >> 29, packet >> 27 & 3 == 2
        if kind == 1:
            register, count = packet >> 13 & 0x1F, packet & 0x7FF
        elif kind == 2:
            count = packet & 0x7FFFFFF
        else:
            raise ValueError("packet")
        data = words[place + 1:place + 1 + count]
        if write and len(data) >= len(found.get(register, ())):
            found[register] = data
        place += 1 + count
    return found


def frame_addresses(part):
    """Return the addresses of a device's frames in the order of a bitstream, None where padding is.

    `part` is what Project X-Ray's ``part.json`` holds.
    """
    rows = {}
    for half, top in enumerate(("top", "bottom")):
        for row, entry in part["global_clock_regions"][top]["rows"].items():
            for bus, columns in entry["configuration_buses"].items():
                base = _BUSES.index(bus) << 23 | half << 22 | int(row) << 17
                rows[base] = [base | int(column) << 7 | minor
                              for column, size in sorted(columns["configuration_columns"].items(),
                                                         key=lambda item: int(item[0]))
                              for minor in range(size["frame_count"])]
    return [address for base in sorted(rows) for address in [*rows[base], *[None] * _PAD]]


def read_frames(path):
    """Return the words of frames by address, from a file as fasm2frames writes it."""
    found = {}
    for line in Path(path).read_text().splitlines():
        address, words = line.split(None, 1)
        found[int(address, 16)] = np.array([int(word, 16) for word in words.split(",")], "u4")
    return found


def check_bitstream(path, part, frames, database):
    """Read a bitstream back and compare it with the frames that it was made of.

    Parameters
    ----------
    path : str or Path
        The ``.bit`` file.
    part : str
        What its header must name.
    frames : str or Path
        As fasm2frames wrote them.
    database : str or Path
        Folder of the family in Project X-Ray's database, with ``<part>/part.json``.

    Returns
    -------
    dict
        ``idcode``, and ``frames``: how many there are, padding left out.

    Raises
    ------
    BitstreamError
        If header, device, number of frames or a frame is not what it must be.
    """
    bits, name = read_bitstream(path), Path(path).name
    device = json.loads(Path(database, part, "part.json").read_text())
    if bits.part != part:
        raise BitstreamError(f"{name} must be for {part}, but its header has {bits.part}")
    if bits.idcode != device["idcode"]:
        raise BitstreamError(f"{name} must be for a device with the code {device['idcode']:#010x}, "
                             f"but has {bits.idcode:#010x}")
    order = frame_addresses(device)
    if len(bits.words) != _FRAME_WORDS * len(order):
        raise BitstreamError(f"{name} must have {len(order)} frames of {_FRAME_WORDS} words, "
                             f"but has {len(bits.words)} words")
    mask = np.full(_FRAME_WORDS, 0xFFFFFFFF, "u4")
    mask[_ECC_WORD] ^= 0x1FFF
    expected, zeros = read_frames(frames), np.zeros(_FRAME_WORDS, "u4")
    if unknown := set(expected) - set(order):
        raise BitstreamError(f"{part} has no frame {min(unknown):#010x}, which {name} is made of")
    for address, words in zip(order, bits.words.reshape(-1, _FRAME_WORDS), strict=True):
        if ((words ^ expected.get(address, zeros)) & mask).any():
            where = "padding" if address is None else f"frame {address:#010x}"
            raise BitstreamError(f"{where} of {name} is not what it was made of")
    return {"idcode": f"{bits.idcode:#010x}", "frames": sum(a is not None for a in order)}
