import dataclasses
import re

import numpy as np
import pytest

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.isa import Error, Opcode
from systola.hw.contract.regmap import COUNTERS, MAGIC, REGISTERS, VERSION
from systola.model.data.synthetic import random_codes, random_stream, random_vit
from systola.model.graph.encoder import encoder_blocks
from systola.model.graph.integer_forward import forward
from systola.sim.machine.machine import Machine, MachineError
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.driver.driver import (
    Accelerator,
    DriverError,
    HardwareError,
    IdentityError,
    MismatchError,
    RunTimeoutError,
)
from systola.sw_driver.driver.transport import Transport
from systola.sw_driver.program.image import ProgramError

CONFIG = AcceleratorConfig(rows=6, cols=4, lanes=2, token_depth=8, banks=2, bank_depth=256,
                           weight_fifo=8, stream_fifo=8, param_depth=64, max_row=64)
NAMES = {register.offset: name for name, register in REGISTERS.items()}


class MachineTransport(Transport):
    """Registers and streams of a `Machine`; time passes only while something is waited for."""

    def __init__(self, config, registers=()):
        self.machine, self.frames, self.now, self.closed = Machine(config), [], 0.0, False
        self.registers = {"ID": MAGIC, "VERSION": VERSION, "STATUS": 0,
                          "HASH_LOW": config.hash & 0xFFFFFFFF, "HASH_HIGH": config.hash >> 32,
                          **{name: 0 for name, _ in COUNTERS}, **dict(registers)}
        self.started, self.late, self.lost, self.never_done = False, 0, 0, False

    def read_register(self, offset):
        self.now += 1e-3
        return self.registers[NAMES[offset]]

    def write_register(self, offset, value):
        register = REGISTERS[NAMES[offset]]
        assert register.name == "CONTROL"
        if register.field("reset").get(value):
            self.registers.update(STATUS=0)
        self.started = bool(register.field("start").get(value))

    def send(self, data):
        assert self.started
        status = REGISTERS["STATUS"]
        try:
            self.frames = self.machine.run(data)
            self.registers["STATUS"] = 0 if self.never_done else status.field("done").mask
        except MachineError as error:
            self.registers.update(STATUS=status.field("error").mask, ERROR=int(error.cause),
                                  ERROR_INDEX=error.index, ERROR_WORD=Opcode.MATMUL)
        self.frames = self.frames[:len(self.frames) - self.lost]
        self.registers["INSTRUCTIONS"] = self.machine.instructions

    def receive(self, timeout):
        if self.late or not self.frames:
            self.late = max(self.late - 1, 0)
            self.now += timeout
            raise TimeoutError
        frame = self.frames.pop(0)
        beats = np.zeros((len(frame), self.machine.config.bus_bytes), np.uint8)
        beats[:, :frame.shape[1]] = frame
        return beats.tobytes()

    def flush(self):
        self.frames = []

    def clock(self):
        return self.now

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(3)
    model = random_vit(rng, channels=12, heads=2, blocks=1, hidden=18, classes=5, tokens=7,
                       patch_dim=5)
    return model, compile_network(model, CONFIG, trace=True), random_codes(rng, model, 2)["patches"]


def opened(program=None, **options):
    transport = MachineTransport(CONFIG, options.pop("registers", ()))
    accelerator = Accelerator(transport, **options)
    if program:
        accelerator.load(program)
    return accelerator, transport


def corrupted(program, position, value):
    stream = bytearray(program.stream)
    stream[position] = value
    return dataclasses.replace(program, stream=bytes(stream))


def test_runs_image_after_image(case):
    model, program, codes = case
    transport = MachineTransport(CONFIG)
    with Accelerator(transport) as accelerator:
        accelerator.load(program)
        for image in codes:
            outputs = accelerator.run({"patches": image})
            expected = forward(model, {"patches": image})  # rows that nothing moves are not stored
            assert outputs.keys() == expected.keys() - {"patch_embed", "pooled"}
            assert all(np.array_equal(outputs[name], expected[name]) for name in outputs)
        assert not transport.closed
    assert transport.closed


def test_runs_blocks_alone(case):
    blocks = encoder_blocks(case[0], 1)
    accelerator, _ = opened(compile_network(blocks, CONFIG))
    for x in random_stream(np.random.default_rng(4), case[0], 2)["embed"]:
        outputs, expected = accelerator.run({"embed": x}), forward(blocks, {"embed": x})
        assert list(outputs) == ["blocks.0.out"]
        assert np.array_equal(outputs["blocks.0.out"], expected["blocks.0.out"])


def test_runs_several_images_at_once(case):
    model, _, codes = case
    accelerator, _ = opened(compile_network(model, CONFIG, images=2))
    logits = accelerator.run({"patches": codes})["logits"]
    assert logits.shape == (2, 1, 5)
    assert np.array_equal(logits, forward(model, {"patches": codes})["logits"])
    with pytest.raises(ProgramError, match=r"^input patches must have shape \(2, 6, 5\), "
                       r"not \(1, 6, 5\)$"):
        accelerator.run({"patches": codes[:1]})


def test_counters_have_the_names_of_the_register_map(case):
    accelerator, _ = opened(case[1], registers={"CYCLES": 123, "MATRIX_BUSY": 45})
    accelerator.run({"patches": case[2][0]})
    counters = accelerator.counters()
    assert list(counters) == [name.lower() for name, _ in COUNTERS]
    assert (counters["cycles"], counters["matrix_busy"]) == (123, 45)
    assert counters["instructions"] == case[1].instructions


def test_late_results_are_waited_for(case):
    accelerator, transport = opened(case[1], timeout=10)
    transport.late = 20
    accelerator.run({"patches": case[2][0]})
    assert 1.0 <= transport.now < 2.0


def test_identity_is_checked():
    with pytest.raises(IdentityError, match=r"^register ID must read 0x61737973, not 0xffffffff$"):
        opened(registers={"ID": 0xFFFFFFFF})
    with pytest.raises(IdentityError, match=r"^register VERSION must read 0x2, not 0x9$"):
        opened(registers={"VERSION": 9})


def test_other_configuration_is_refused(case):
    there = CONFIG.hash ^ 1 << 40
    accelerator, _ = opened(registers={"HASH_HIGH": there >> 32})
    message = f"program is for configuration {CONFIG.hash:#018x}, the hardware has {there:#018x}"
    with pytest.raises(MismatchError, match=f"^{re.escape(message)}$"):
        accelerator.load(case[1])
    with pytest.raises(DriverError, match=r"^no program is loaded$"):
        accelerator.run({"patches": case[2][0]})


def test_refused_instruction_is_decoded_and_reset_recovers(case):
    _, program, codes = case
    bad = corrupted(program, program.inputs[0].offset - 64, 200)
    accelerator, transport = opened(bad)
    with pytest.raises(HardwareError, match=r"^instruction \d+ \(MATMUL\) was refused: "
                       r"BAD_OPCODE$") as caught:
        accelerator.run({"patches": codes[0]})
    assert caught.value.cause is Error.BAD_OPCODE
    assert caught.value.opcode is Opcode.MATMUL
    assert caught.value.index == transport.machine.instructions
    with pytest.raises(HardwareError):  # sticky
        accelerator.run({"patches": codes[0]})
    accelerator.reset()
    transport.machine = Machine(CONFIG)
    accelerator.load(program)
    accelerator.run({"patches": codes[0]})


def test_unknown_codes_are_shown():
    error = HardwareError(77, 3, 0xABCD00EE)
    assert str(error) == "instruction 3 (unknown code 238) was refused: unknown code 77"
    assert (error.cause, error.opcode) == (77, 0xEE)


def test_missing_frame_times_out(case):
    accelerator, transport = opened(case[1], timeout=2.5)
    transport.lost = 1
    last = len(case[1].frames) - 1
    with pytest.raises(RunTimeoutError, match=rf"^waited 2\.5 s for result frame {last}; "
                       r"status 0x2, \d+ instructions issued$"):
        accelerator.run({"patches": case[2][0]})
    assert 2.5 <= transport.now < 2.7


def test_missing_done_times_out(case):
    accelerator, transport = opened(case[1], timeout=1)
    transport.never_done = True
    with pytest.raises(RunTimeoutError, match=r"^waited 1 s to report done; status 0x0, .*$"):
        accelerator.run({"patches": case[2][0]})


def test_busy_accelerator_is_left_alone(case):
    accelerator, _ = opened(case[1], registers={"STATUS": REGISTERS["STATUS"].field("busy").mask})
    with pytest.raises(DriverError, match=r"^the accelerator is busy; reset it first$"):
        accelerator.run({"patches": case[2][0]})


def test_wrong_inputs_start_nothing(case):
    accelerator, transport = opened(case[1])
    with pytest.raises(ProgramError, match=r"^input patches must have shape .*$"):
        accelerator.run({"patches": case[2][0][:-1]})
    assert not transport.started


def test_short_frame_is_refused(case):
    accelerator, transport = opened(case[1])
    transport.receive = lambda timeout: b"\0" * 7
    with pytest.raises(DriverError, match=r"^result frame 0 must have 28 beats of 8 bytes, "
                       r"not 7 bytes$"):
        accelerator.run({"patches": case[2][0]})


def test_timeout_must_be_positive():
    with pytest.raises(ValueError, match=r"^timeout must be positive, not 0$"):
        opened(timeout=0)
