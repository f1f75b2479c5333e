"""Bitstreams read back, whole and damaged."""

import json

import pytest
from openxc7_files import IDCODE, ORDER, PART, bit_file, frames_text, part_json

from systola.boards.flows.bitstream import (
    BitstreamError,
    check_bitstream,
    frame_addresses,
    read_bitstream,
)

FRAMES = {0x00000001: [k * 0x01010101 & 0xFFFFFFFF for k in range(101)],
          0x00400000: [7] * 101, 0x00800001: [0] * 100 + [1]}


@pytest.fixture
def files(tmp_path):
    """Return a function that writes a bitstream and checks it."""
    (tmp_path / PART).mkdir()
    (tmp_path / PART / "part.json").write_text(json.dumps(part_json()))
    (tmp_path / "x.frames").write_text(frames_text(FRAMES))

    def check(data):
        (tmp_path / "x.bit").write_bytes(data)
        return check_bitstream(tmp_path / "x.bit", PART, tmp_path / "x.frames", tmp_path)

    return check


def test_read_back(files, tmp_path):
    assert frame_addresses(part_json()) == ORDER
    assert files(bit_file(FRAMES)) == {"idcode": "0x0362f093", "frames": 6}
    bits = read_bitstream(tmp_path / "x.bit")
    assert (bits.part, bits.idcode, len(bits.words)) == (PART, IDCODE, 12 * 101)


def test_the_code_that_corrects_errors_is_left_out(files):
    coded = {address: [*words[:50], words[50] ^ 0x1ABC, *words[51:]]
             for address, words in FRAMES.items()}
    assert files(bit_file(coded))["frames"] == 6


def swapped(address, place, bit):
    """Return the frames with one bit changed."""
    frames = {key: list(words) for key, words in FRAMES.items()}
    frames.setdefault(address, [0] * 101)[place] ^= 1 << bit
    return frames


@pytest.mark.parametrize(("data", "message"), [
    (bit_file(FRAMES, part="xc7s25csga324-1"),
     "x.bit must be for xc7s50csga324-1, but its header has xc7s25csga324-1"),
    (bit_file(FRAMES, idcode=0x03622093),
     "x.bit must be for a device with the code 0x0362f093, but has 0x03622093"),
    (bit_file(FRAMES, order=ORDER[:-1]),
     "x.bit must have 12 frames of 101 words, but has 1111 words"),
    (bit_file(swapped(0x00000001, 3, 5)), "frame 0x00000001 of x.bit is not what it was made of"),
    (bit_file(swapped(0x00000001, 50, 13)), "frame 0x00000001 of x.bit is not what .*"),
    (bit_file(swapped(0x00000080, 0, 0)), "frame 0x00000080 of x.bit is not what .*"),
    (bit_file(swapped(None, 0, 0)), "padding of x.bit is not what it was made of"),
    (bit_file(FRAMES)[:-4], "x.bit must be a bitstream with header, device and frames, but is not"),
    (bit_file(FRAMES)[:60], "x.bit must be a bitstream .*"),
    (b"", "x.bit must be a bitstream .*"),
    (bit_file(FRAMES).replace(b"\xaa\x99\x55\x66", b"\xaa\x99\x55\x67"),
     "x.bit must be a bitstream .*"),
])
def test_what_is_not_the_bitstream(files, data, message):
    with pytest.raises(BitstreamError, match=f"^{message}$"):
        files(data)


def test_frames_that_the_part_does_not_have(files, tmp_path):
    (tmp_path / "x.frames").write_text(frames_text({0x00C00000: [0] * 101}))
    with pytest.raises(BitstreamError, match=r"^xc7s50csga324-1 has no frame 0x00c00000, which "
                                             r"x.bit is made of$"):
        files(bit_file(FRAMES))
