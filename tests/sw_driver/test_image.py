import dataclasses
import json
import re
import struct
import zlib

import numpy as np
import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.sw_driver.program.image import (
    InputSlot,
    OutputPart,
    OutputTensor,
    Program,
    ProgramError,
    decode_outputs,
)

CONFIG = AcceleratorConfig(rows=3, cols=2, lanes=1, max_row=16)
HEADER, ENTRY = 28, 28


def part(**changes):
    fields = {"frame": 0, "planes": 1, "digit_bits": 0, "rows": 2, "words": 2, "lane": 0,
              "columns": 5, "head": None, "row": 0, "column": 0}
    return OutputPart(**{**fields, **changes})


def program(**changes):
    slot = InputSlot(name="patches", offset=8, row=0, rows=2, channels=5, planes=1, words=2)
    tensor = OutputTensor(name="y", shape=(2, 5), parts=(part(),))
    fields = {"config": CONFIG, "stream": bytes(range(64)), "inputs": (slot,),
              "outputs": (tensor,), "frames": (4,), "instructions": 1, "macs": 7, "work": 6,
              "model": {"tokens": 3}, "predicted": {"cycles": 9}}
    return Program(**{**fields, **changes})


@pytest.fixture
def image(tmp_path):
    program().write(tmp_path / "p.bin")
    return (tmp_path / "p.bin").read_bytes()


def test_round_trip(tmp_path):
    path = tmp_path / "p.bin"
    path.write_bytes(b"old")
    program().write(path)
    assert Program.read(path) == program()
    assert [file.name for file in tmp_path.iterdir()] == ["p.bin"]


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "p.bin"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        program(model={"bad": object()}).write(path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["p.bin"]


def test_every_truncation_is_refused(image):
    for length in range(len(image)):
        with pytest.raises(ProgramError, match=r"^truncated: \d+ bytes, .*\d$"):
            Program.from_bytes(image[:length])


def test_every_changed_byte_is_refused(image):
    for position in range(len(image)):
        bad = bytearray(image)
        bad[position] ^= 0x41
        with pytest.raises(ProgramError, match=r"^[^\n]+$"):
            Program.from_bytes(bytes(bad))


@pytest.mark.parametrize(("position", "data", "message"), [
    (0, b"ELF", r"not a program image: magic must be b'SYSTOLA\\x01', not b'ELF.*'"),
    (8, b"\x07", r"version must be 3, not 7"),
    (12, b"\x03", r"section count must be 2, not 3"),
    (16, b"\x00\x00\x00\x00", r"configuration hash must be 0x\w{16}, not 0x\w{16}"),
    (HEADER, b"M", r"section table fails its CRC-32"),
    (-1, b"\xff", r"section 'stream' fails its CRC-32"),
    (HEADER + 2 * ENTRY, b"[", r"section 'meta' fails its CRC-32"),
])
def test_damage_is_named(image, position, data, message):
    bad = bytearray(image)
    position %= len(bad)
    bad[position:position + len(data)] = data
    with pytest.raises(ProgramError, match=f"^{message}$"):
        Program.from_bytes(bytes(bad))


def test_trailing_data_is_refused(image):
    with pytest.raises(ProgramError, match=r"^2 bytes of trailing data$"):
        Program.from_bytes(image + b"ab")


def test_file_name_is_in_the_message(tmp_path):
    path = tmp_path / "no.bin"
    name = re.escape(repr(str(path)))
    with pytest.raises(ProgramError, match=f"^program {name} cannot be read: No such file .*$"):
        Program.read(path)
    path.write_bytes(b"")
    with pytest.raises(ProgramError, match=f"^program {name}: truncated: 0 bytes.*$"):
        Program.read(path)


def forged(image, change):
    """Return `image` with `change` applied to its metadata and all checksums right again."""
    length = struct.unpack_from("<Q", image, HEADER + 16)[0]
    start = HEADER + 2 * ENTRY
    meta = json.loads(image[start:start + length])
    stream = image[start + length:]
    change(meta)
    sections = json.dumps(meta).encode(), stream
    table, offset = b"", start
    for name, data in zip((b"meta", b"stream"), sections, strict=True):
        table += struct.pack("<8sQQI", name, offset, len(data), zlib.crc32(data))
        offset += len(data)
    header = image[:24] + struct.pack("<I", zlib.crc32(table))
    return b"".join((header, table, *sections))


def one_row(meta):
    """Return the output of `meta` with its first row only."""
    tensor = meta["outputs"][0]
    return {**tensor, "shape": [1, 5], "parts": [{**tensor["parts"][0], "rows": 1}]}


@pytest.mark.parametrize(("change", "message"), [
    (lambda m: m["config"].update(rows=4), r"configuration hash must be .*"),
    (lambda m: m["config"].update(rows=1), r"configuration: rows must be .* not 1"),
    (lambda m: m["config"].update(speed=1), r"configuration: unknown .*"),
    (lambda m: m.pop("frames"), r"meta section must have config, .*"),
    (lambda m: m.update(extra=1), r"meta section must have config, .*, not \[.*'extra'.*\]"),
    (lambda m: m.update(config=[]), r"configuration must be a table, not \[\]"),
    (lambda m: m.update(inputs=5), r"inputs must be a list, not 5"),
    (lambda m: m.update(inputs=[5]), r"an input must have name, offset, .*, not 5"),
    (lambda m: m["inputs"][0].update(name=5), r"name of an input must be text, not 5"),
    (lambda m: m["inputs"].append(dict(m["inputs"][0], name="x")),
     r"input 'x' must not overlap another"),
    (lambda m: m["inputs"][0].update(rows=0), r"input 'patches' does not lie inside .*"),
    (lambda m: m["inputs"][0].update(offset=9), r"input 'patches' does not lie inside .*"),
    (lambda m: m["inputs"][0].update(offset=56), r"input 'patches' does not lie inside .*"),
    (lambda m: m["inputs"][0].update(offset=-1),
     r"offset of an input must be an integer from 0 to 64, not -1"),
    (lambda m: m["inputs"][0].update(channels=7), r"input 'patches' does not lie inside .*"),
    (lambda m: m["inputs"][0].update(planes=3), r"input 'patches' does not lie inside .*"),
    (lambda m: m["inputs"][0].update(row=1), r"input 'patches' must be whole, .*"),
    (lambda m: m["inputs"][0].update(rows=1.5), r"rows of an input must be .* not 1.5"),
    (lambda m: m["outputs"][0]["parts"][0].update(frame=1), r"output 'y' does not match .*"),
    (lambda m: m["outputs"][0]["parts"][0].update(lane=2), r"output 'y' does not match .*"),
    (lambda m: m["outputs"][0]["parts"][0].update(column=1), r"output 'y' does not match .*"),
    (lambda m: m["outputs"][0]["parts"][0].update(row=-1),
     r"row of a part of output 'y' must be an integer from 0 to 4294967296, not -1"),
    (lambda m: m["outputs"][0]["parts"][0].update(columns=0), r"output 'y' does not match .*"),
    (lambda m: m["outputs"][0]["parts"][0].update(columns=4), r"output 'y' must take every .*"),
    (lambda m: m["outputs"][0]["parts"][0].update(digit_bits=9), r"output 'y' does not match .*"),
    (lambda m: m["outputs"][0]["parts"].append(m["outputs"][0]["parts"][0]),
     r"output 'y' must take every element from one place of its frames"),
    (lambda m: m["outputs"].append(dict(m["outputs"][0], name="z")),
     r"output 'z' must take every element from one place of its frames"),
    (lambda m: m["outputs"][0].update(shape=[1, 2, 2**60]), r"shape of output 'y' must be .*"),
    (lambda m: m["outputs"][0].update(shape=[]), r"shape of output 'y' must be .* not \[\]"),
    (lambda m: m["outputs"][0].update(shape=[10]),
     r"shape of output 'y' must be 2 or 3 positive integers, not \[10\]"),
    (lambda m: m.update(images=0), r"images must be an integer from 1 to 4096, not 0"),
    (lambda m: m.update(images=4097), r"images must be an integer from 1 to 4096, not 4097"),
    (lambda m: m.update(images=True), r"images must be an integer from 1 to 4096, not True"),
    (lambda m: m.update(images=3), r"input 'patches' must have rows for 3 images, not 2"),
    (lambda m: m.update(images=2, inputs=[], outputs=[one_row(m)]),
     r"output 'y' must have rows for 2 images, not 1"),
    (lambda m: m.update(frames=[4, 10**12]), r"a result frame must have 1 to 2048 beats, not 1.*"),
    (lambda m: m.update(frames=[4, 4]), r"1 instructions must not give 2 frames"),
    (lambda m: m.update(instructions=2), r"instructions must be an integer from 0 to 1, not 2"),
    (lambda m: m.update(names=["a"]), r"names must be there for 0 instructions or none, not 1"),
    (lambda m: m.update(names=[1]), r"names must be a list of texts, not \[1\]"),
    (lambda m: m.update(macs=True), r"macs must be an integer from .* not True"),
    (lambda m: m.update(work=-1), r"work must be an integer from .* not -1"),
    (lambda m: m.update(model=[]), r"model must be a table, not \[\]"),
    (lambda m: m.update(predicted={"cycles": "9"}), r"predicted cycles must be .* not '9'"),
    (lambda m: m["outputs"][0]["parts"][0].update(head=0), r"output 'y' does not match .*"),
    (lambda m: m["outputs"][0].update(shape=[1, 5]), r"output 'y' does not match .*"),
    (lambda m: m.update(frames=[5]), r"output 'y' does not match .*"),
])
def test_consistent_checksums_do_not_hide_nonsense(image, change, message):
    Program.from_bytes(forged(image, lambda meta: None))
    with pytest.raises(ProgramError, match=f"^{message}$"):
        Program.from_bytes(forged(image, change))


def test_only_attention_of_short_sequences_may_have_gaps(image):
    """One element in 16 must come from frames, so that results never need much more memory."""
    def attention(keys):
        def change(meta):
            tensor = meta["outputs"][0]
            tensor["shape"], tensor["parts"][0]["head"] = [1, 2, keys], 0
        return change

    for keys in 5, 6, 80:
        Program.from_bytes(forged(image, attention(keys)))
    with pytest.raises(ProgramError, match=r"^output 'y' must take every element from one place "
                                           r"of its frames$"):
        Program.from_bytes(forged(image, attention(81)))


def test_stream_of_odd_length_is_refused(tmp_path):
    program(stream=bytes(63)).write(tmp_path / "p")
    with pytest.raises(ProgramError, match=r"stream must be whole beats of 4 bytes, not 63 bytes$"):
        Program.read(tmp_path / "p")


def test_fill_places_codes_and_zeroes_the_padding():
    codes = np.array([[1, 2, 3, 4, -5], [6, 7, 8, 9, -128]])
    stream = program().fill({"patches": codes})
    assert stream[:8] == bytes(range(8))
    assert stream[24:] == bytes(range(24, 64))
    beats = np.frombuffer(stream[8:24], np.int8).reshape(4, 4)
    assert beats.tolist() == [[1, 2, 3, 0], [4, -5, 0, 0], [6, 7, 8, 0], [9, -128, 0, 0]]


def wide_slots():
    """One input of 16-bit numbers, 2 x 2, each row its own slot."""
    return tuple(InputSlot(name="x", offset=16 + 24 * row, row=row, rows=1, channels=2, planes=2,
                           words=1) for row in range(2))


def test_images_are_rows_one_after_the_other():
    codes = np.array([[[1, 2, 3, 4, -5]], [[6, 7, 8, 9, -128]]])
    both = program(images=2)
    assert both.fill({"patches": codes}) == program().fill({"patches": codes.reshape(2, 5)})
    for wrong in codes.reshape(2, 5), codes[:1], codes.reshape(1, 2, 5):
        with pytest.raises(ProgramError, match=r"^input patches must have shape \(2, 1, 5\), not "):
            both.fill({"patches": wrong})
    frame = np.arange(1, 13, dtype=np.uint8)
    assert decode_outputs(both, [frame])["y"].tolist() == [[[1, 2, 3, 4, 5]], [[7, 8, 9, 10, 11]]]


def test_images_come_before_heads():
    parts = [part(head=head, lane=3 * head, columns=2) for head in range(2)]
    tensor = OutputTensor(name="y", shape=(2, 2, 2), parts=tuple(parts))
    both = program(images=2, outputs=(tensor,))
    frame = np.arange(1, 13, dtype=np.uint8)
    assert decode_outputs(both, [frame])["y"].tolist() == [
        [[[1, 2]], [[4, 5]]], [[[7, 8]], [[10, 11]]]]


def test_fill_places_16_bit_rows_in_their_slots(tmp_path):
    program(inputs=wide_slots()).write(tmp_path / "p")
    stream = Program.read(tmp_path / "p").fill({"x": np.array([[1, -2], [-32768, 32767]])})
    assert stream[16:24] == bytes([1, 254, 0, 0, 0, 255, 0, 0])
    assert stream[24:40] == bytes(range(24, 40))
    assert stream[40:48] == bytes([0, 255, 0, 0, 128, 127, 0, 0])
    with pytest.raises(ProgramError,
                       match=r"^input x must hold integers from -32768 to 32767$"):
        program(inputs=wide_slots()).fill({"x": np.full((2, 2), 32768)})


def test_an_input_with_a_hole_is_refused(tmp_path):
    first, second = wide_slots()
    for bad in dataclasses.replace(second, row=2), dataclasses.replace(second, channels=3):
        program(inputs=(first, bad)).write(tmp_path / "p")
        with pytest.raises(ProgramError, match=r"input 'x' must be whole, its rows in order$"):
            Program.read(tmp_path / "p")


@pytest.mark.parametrize(("inputs", "message"), [
    ({}, "inputs must be patches, not nothing"),
    ({"pixels": np.zeros((2, 5), int)}, "inputs must be patches, not pixels"),
    ({"patches": np.zeros((2, 4), int)},
     r"input patches must have shape \(2, 5\), not \(2, 4\)"),
    ({"patches": np.full((2, 5), 128)}, "input patches must hold integers from -128 to 127"),
    ({"patches": np.zeros((2, 5))}, "input patches must hold integers from -128 to 127"),
])
def test_bad_inputs_are_refused(inputs, message):
    with pytest.raises(ProgramError, match=f"^{message}$"):
        program().fill(inputs)


def decode(frame, shape, *parts, beats=None):
    tensor = OutputTensor(name="y", shape=shape, parts=parts)
    image = program(outputs=(tensor,), frames=(beats or len(frame),))
    return decode_outputs(image, [frame])["y"]


def test_decode_codes_16_bits_and_digits():
    frame = np.array([[1, 255, 3], [4, 5, 77]], np.uint8)
    one = part(rows=1, words=2, columns=5)
    assert decode(frame, (1, 5), one).tolist() == [[1, -1, 3, 4, 5]]
    two = part(rows=1, words=1, planes=2, columns=3)
    assert decode(frame, (1, 3), two)[0].tolist() == [1 + 4 * 256, 255 + 5 * 256, 3 + 77 * 256]
    assert decode(np.array([[255] * 3, [255] * 3], np.uint8), (1, 3), two)[0].tolist() == [-1] * 3
    rows = np.array([[1, 2, 3], [0, 255, 1], [4, 5, 6], [1, 0, 0]], np.uint8)
    both = dataclasses.replace(two, rows=2)
    assert decode(rows, (2, 3), both).tolist() == [[1, 2 - 256, 259], [260, 5, 6]]
    unsigned = part(rows=1, words=1, digit_bits=8, columns=3)
    assert decode(np.array([[128, 0, 255]], np.uint8), (1, 3), unsigned).tolist() == [[128, 0, 255]]
    digits = part(rows=1, words=1, planes=2, digit_bits=8, columns=3)
    top = np.array([[255, 0, 128], [128, 1, 0]], np.uint8)
    assert decode(top, (1, 3), digits).tolist() == [[-1 + 128 * 256, 256, -128]]
    short = dataclasses.replace(digits, planes=3, digit_bits=3)
    top = np.array([[0xFC, 3, 0], [1, 0xFF, 0], [2, 7, 1]], np.uint8)
    assert decode(top, (1, 3), short).tolist() == [[-4 + 8 + 128, 3 - 8 + 448, 64]]


def test_decode_places_heads_and_columns_from_full_beats():
    frame = np.array([[1, 2, 3, 99], [4, 5, 6, 99]], np.uint8)
    parts = [part(rows=1, words=2, lane=3 * i, columns=2, head=1 - i) for i in range(2)]
    assert decode(frame, (2, 1, 2), *parts).tolist() == [[[4, 5]], [[1, 2]]]
    assert decode(frame[:, :3], (2, 1, 2), *parts).tolist() == [[[4, 5]], [[1, 2]]]


@pytest.mark.parametrize(("frames", "message"), [
    ([], "result must have 1 frames, not 0"),
    ([np.zeros(11, np.uint8)], "result frame 0 must have 4 beats, not 11 bytes"),
])
def test_decode_refuses_other_frames(frames, message):
    with pytest.raises(ProgramError, match=f"^{message}$"):
        decode_outputs(program(), frames)
