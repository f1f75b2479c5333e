"""Resident programs over the model of a board: results, what crosses the link, and damage."""

import contextlib
import dataclasses
import random
from itertools import pairwise

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS
from systola.hw.contract.frame import BUFFER
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.integer_forward import forward
from systola.sim.machine.device import DeviceModel
from systola.sim.soak.fault_runs import small_cases
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.driver.driver import Accelerator
from systola.sw_driver.driver.errors import DriverError, MismatchError, RunTimeoutError
from systola.sw_driver.driver.resident import DamagedError, ResidentPrograms
from systola.sw_driver.driver.uart import UartTransport
from systola.sw_driver.program.directory import DIRECTORY_BYTES, ENTRIES_MAX, Directory
from systola.sw_driver.program.image import Program
from tests.sw_driver.test_channel import Wire

TINY = PRESETS["tiny"]
SIZE = 40_000 // TINY.bus_bytes


@pytest.fixture(scope="module")
def cases():
    """Return programs of three small networks with inputs and outputs."""
    return small_cases(2, TINY)


def board(device):
    return ResidentPrograms(Accelerator(UartTransport(Wire(device), rng=random.Random(1))))


def test_programs_stay_over_sessions_and_only_inputs_cross_the_link(cases):
    device = DeviceModel(TINY, size=SIZE)
    resident = board(device)
    assert not resident.found
    for number, (program, _, _) in enumerate(cases):
        entry = resident.flash(f"net{number}", program)
        at = entry.address * TINY.bus_bytes
        assert device.memory[at:at + len(program.stream)] == program.stream
    resident = board(device)  # another host
    assert resident.found
    assert [entry.name for entry in resident.directory.programs] == ["net0", "net1", "net2"]
    traffic = resident.transport.traffic
    for number in 2, 0, 1, 0:
        program, inputs, expected = cases[number]
        traffic.clear()
        got = list(resident.run(f"net{number}", program, [inputs] * 3))
        assert len(got) == 3
        for outputs in got:
            assert np.array_equal(outputs["logits"], expected["logits"])
        slots = sum(slot.rows * slot.planes * slot.words for slot in program.inputs)
        assert traffic["program"] == 0
        assert traffic["inputs"] == 3 * slots * TINY.bus_bytes
        assert traffic["results"] == 3 * sum(program.frames) * (TINY.bus_bytes + 1)
        assert traffic["control"] < 3 * 250
    assert list(resident.run("net1", cases[1][0], [])) == []


def test_inputs_of_every_batch_are_their_own(cases):
    rng = np.random.default_rng(3)
    model = random_vit(rng, channels=8, heads=2, blocks=1, hidden=8, classes=9, tokens=4,
                       patch_dim=5, **TINY.model_settings)
    program = compile_network(model, TINY, images=3)
    codes = random_codes(rng, model, 12)
    expected = forward(model, codes, keep=["logits"])["logits"]
    resident = board(DeviceModel(TINY, size=SIZE))
    resident.flash("three", program, readback=False)
    batches = [{name: values[at:at + 3] for name, values in codes.items()}
               for at in range(0, 12, 3)]
    got = np.concatenate([out["logits"] for out in resident.run("three", program, batches)])
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("where", ["program", "input"])
def test_damage_in_memory_never_becomes_a_result(cases, where):
    """Inputs are damaged on their way into memory, everything else once it is there."""
    device, rng = DeviceModel(TINY, size=SIZE), random.Random(0)
    resident = board(device)
    program, inputs, expected = cases[0]
    entry = resident.flash("net", program)
    size, put = TINY.bus_bytes, device._put
    slots = {slot.offset // size + beat for slot in program.inputs
             for beat in range(slot.rows * slot.planes * slot.words)}
    places = slots if where == "input" else set(range(entry.beats)) - slots

    def spoil(place, byte, bit):
        device.memory[place * size + byte] ^= bit

    for place in rng.sample(sorted(places), min(12, len(places))):
        damage = entry.address + place, rng.randrange(size), 1 << rng.randrange(8)

        def put_and_spoil(beat, damage=damage):
            is_place = device._place == damage[0]
            put(beat)
            if is_place:
                spoil(*damage)

        resident = board(device)
        if where == "input":
            device._put = put_and_spoil
        else:
            spoil(*damage)
        with pytest.raises(DamagedError, match=r"^the resident program 'net' or its inputs were"):
            list(resident.run("net", program, [inputs]))
        device._put = put
        if where == "program":
            spoil(*damage)
    outputs, = board(device).run("net", program, [inputs])
    assert np.array_equal(outputs["logits"], expected["logits"])


def test_a_memory_that_does_not_keep_what_is_written_is_found_at_once(cases):
    device = DeviceModel(TINY, size=SIZE)
    resident = board(device)
    program, _, _ = cases[0]
    put = device._put

    def stuck(beat):
        place = device._place
        put(beat)
        if place == 700:
            device.memory[700 * TINY.bus_bytes + 1] |= 4

    stream = bytearray(program.stream)
    stream[(700 - resident.directory.beats) * TINY.bus_bytes + 1] &= ~4
    program = dataclasses.replace(program, stream=bytes(stream))
    device._put = stuck
    with pytest.raises(DamagedError, match=r"^program 'net' at beat \d+ has another checksum"):
        resident.flash("net", program)
    assert board(device).directory.find("net") is None


def test_another_program_of_the_same_name_is_not_run(cases):
    resident = board(DeviceModel(TINY, size=SIZE))
    resident.flash("net", cases[0][0])
    assert resident.holds("net", cases[0][0])
    assert not resident.holds("net", cases[1][0])
    with pytest.raises(MismatchError, match=r"^the resident program 'net' is another one"):
        list(resident.run("net", cases[1][0], [cases[1][1]]))
    with pytest.raises(ValueError, match=r"^no resident program is called 'x': there are net$"):
        list(resident.run("x", cases[1][0], [cases[1][1]]))
    resident.flash("net", cases[1][0])  # in its place
    outputs, = resident.run("net", cases[1][0], [cases[1][1]])
    assert np.array_equal(outputs["logits"], cases[1][2]["logits"])
    resident.remove("net")
    with pytest.raises(ValueError, match=r"^no resident program is called 'net': there is none$"):
        resident.remove("net")
    other = dataclasses.replace(cases[0][0], config=dataclasses.replace(TINY, queue_depth=3))
    with pytest.raises(MismatchError):
        resident.flash("net", other)


def test_a_board_without_memory_says_so(cases):
    with pytest.raises(DriverError, match=r"^the board has no memory for resident programs"):
        board(DeviceModel(TINY))
    with pytest.raises(DriverError, match=r"has no room for programs$"):
        board(DeviceModel(TINY, size=10))
    transport = UartTransport(Wire(DeviceModel(TINY, size=SIZE)))
    with pytest.raises(DriverError, match=r"^beats 9999 to 10001 do not lie in the board's memory"):
        transport.put(9999, bytes(2 * TINY.bus_bytes))
    small = board(DeviceModel(TINY, size=DIRECTORY_BYTES // TINY.bus_bytes + 100))
    with pytest.raises(ValueError, match=r"^program has [\d,]+ bytes, and the board's memory of "):
        small.flash("net", cases[0][0])


def test_what_a_host_left_under_way_is_stopped(cases):
    device = DeviceModel(TINY, size=SIZE)
    resident = board(device)
    program, inputs, expected = cases[0]
    entry = resident.flash("net", program)
    resident._start(entry.address, entry.beats, 0)  # and no accelerator that takes it
    assert resident._status("busy")
    resident = board(device)
    outputs, = resident.run("net", program, [inputs])
    assert np.array_equal(outputs["logits"], expected["logits"])


@pytest.mark.parametrize("seed", range(4))
def test_the_directory_is_right_or_there_is_none(seed):
    rng = random.Random(seed)
    directory, there = Directory(5000, 8), {}
    for number in range(60):
        if there and rng.random() < 0.4:
            name = rng.choice(sorted(there))
            directory = directory.without(name)
            del there[name]
        else:
            name, stream = f"p{number}", rng.randbytes(8 * rng.randrange(1, 900))
            gaps = [5000 - directory.beats - sum(there.values())]  # a bound
            if len(there) == ENTRIES_MAX or len(stream) // 8 > max(gaps):
                with pytest.raises(ValueError, match=r"the most there may be|free in one piece"):
                    directory.place(name, stream)
                continue
            with contextlib.suppress(ValueError):  # in pieces
                directory = directory.place(name, stream)
            if not directory.find(name):
                continue
            there[name] = len(stream) // 8
        data = directory.encode()
        assert len(data) == DIRECTORY_BYTES
        read = Directory.decode(data, 5000, 8)
        assert read == directory
        assert {entry.name: entry.beats for entry in read.programs} == there
        places = sorted((entry.address, entry.address + entry.beats) for entry in read.programs)
        assert all(end <= start for (_, end), (start, _) in pairwise(places))
        used = 16 + 44 * len(there)
        if there:
            damaged = bytearray(data)
            damaged[rng.randrange(used)] ^= 1 << rng.randrange(8)
            assert Directory.decode(bytes(damaged), 5000, 8) is None
    assert Directory.decode(bytes(1024), 5000, 8) is None
    for name in "", "x" * 33, "a\n":
        with pytest.raises(ValueError, match=r"^name must be 1 to 32 printable characters"):
            directory.place(name, bytes(8))


def test_the_buffer_of_the_board_is_enough(cases):
    program = cases[0][0]
    assert isinstance(program, Program)
    assert len(program.stream) > BUFFER  # so that it does not cross the link in one piece


def test_a_slow_line_is_waited_for_and_a_dead_memory_is_not(cases):
    device = DeviceModel(TINY, size=SIZE)
    wire = Wire(device)
    transport = UartTransport(wire, rng=random.Random(1))
    resident = ResidentPrograms(Accelerator(transport, timeout=2.0))
    entry = resident.flash("net", cases[0][0], readback=False)
    read = wire.read

    def slow(timeout):
        wire.now += 1.0
        return read(timeout)

    wire.read = slow
    start = wire.now
    assert resident.read(entry.address, 1200) == device.memory[
        entry.address * TINY.bus_bytes:(entry.address + 1200) * TINY.bus_bytes]
    assert wire.now - start > 4.0  # more than the timeout
    wire.read = read
    device._give = lambda frames: None
    with pytest.raises(RunTimeoutError, match=r"^waited 2 s for what the board reads of its mem"):
        resident.read(0, 5)
