"""The self-test on a model of the board, with faults in the model's memories and products."""

import dataclasses

import numpy as np
import pytest

from systola.hw.contract.config import PRESETS, AcceleratorConfig
from systola.hw.contract.isa import Flag
from systola.hw.contract.numbers import CODE_BITS
from systola.sim.machine.machine import Machine
from systola.sim.machine.memories import Memories
from systola.sw_driver.driver.errors import HardwareError, LinkError
from systola.sw_driver.program.image import decode_outputs
from systola.sw_driver.selftest.array_faults import ArrayFaults
from systola.sw_driver.selftest.instruction_list import InstructionList
from systola.sw_driver.selftest.self_test import SelfTest, line_seconds
from systola.sw_driver.selftest.stuck_bits import KINDS, apply_stuck, stuck_bits

TINY = dataclasses.replace(PRESETS["tiny"], bank_depth=128, param_depth=32)
PACKED = dataclasses.replace(TINY, pe_style="dsp_packed")
OTHERS = {
    "published": dataclasses.replace(TINY, attention="published", gelu="published",
                                     norm="published"),
    "levels": dataclasses.replace(PRESETS["small"], attention="half_16", mult_bits=24),
    "compared": dataclasses.replace(TINY, act_bits=4, weight_bits=4, norm="compared",
                                    vector_lanes=1, rows=8, cols=4, lanes=1),
    "odd": dataclasses.replace(TINY, rows=6, cols=4, lanes=2, vector_lanes=2, norm_lanes=1,
                               acc_bits=20, mult_bits=11, code_mult_bits=8),
    "packed": PACKED,
    "everything": AcceleratorConfig(
        rows=8, cols=4, lanes=2, vector_lanes=2, pe_style="dsp_packed", narrow_bits=4,
        weight_codes=True, copies=True, masks=True, acc_bits=24, token_depth=16, acc_buffers=3,
        banks=2, bank_depth=256, weight_fifo=16, stream_fifo=16, param_depth=32, param_ports=2,
        mult_bits=16, code_mult_bits=16, attention="deferred", norm_bits=16, pooling="mean",
        max_row=64),
}


class ModelBoard:
    """What the self-test needs of an `Accelerator`: a `Machine` with these memories."""

    def __init__(self, config, memories=Memories):
        self.config, self.memories, self.runs = config, memories(config), 0

    def reset(self):
        """Begin again with the first buffer of the accumulators."""
        self.memories.tiles = 0

    def load(self, program):
        """Choose the program."""
        self.program = program

    def run(self, inputs):
        """Return the outputs."""
        self.runs += 1
        machine = Machine(self.config)
        machine.memories = self.memories
        return decode_outputs(self.program, machine.run(self.program.stream))


def report(config, memories=Memories):
    """Return the reports of a self-test with faulty memories, by part."""
    return {part.part: part for part in SelfTest(config).run(ModelBoard(config, memories))}


def only_finding(parts):
    """Return the one finding, and that nothing else is claimed to be wrong."""
    failed = [part for part in parts.values() if part.outcome == "failed"]
    assert len(failed) == 1, {part.part: part.findings for part in failed}
    assert len(failed[0].findings) == 1, failed[0].findings
    return failed[0].findings[0]


@pytest.mark.parametrize("config", [*PRESETS.values(), *OTHERS.values()],
                         ids=[*PRESETS, *OTHERS])
def test_a_good_board_passes_in_a_minute(config):
    test = SelfTest(config)
    assert not test.untested
    parts = test.run(ModelBoard(config))
    assert {part.outcome for part in parts} == {"passed"}
    assert line_seconds(test.bytes_in + test.bytes_out, 1_000_000) < 60


@pytest.mark.parametrize("config", [*PRESETS.values(), *OTHERS.values()],
                         ids=[*PRESETS, *OTHERS])
def test_answers_depend_on_nothing_undefined(config):
    for seed, probe in enumerate(SelfTest(config).probes):
        assert probe.same(Machine(config, seed=seed).run(probe.program.stream)), probe.part


def stuck_words(address, lane, bit, kind):
    """Return memories whose scratchpad has a stuck bit; `address` is a slice."""
    class Stuck(Memories):
        def read(self, fields, prefix, words, planes=1):
            addresses = self.addresses(fields, prefix, words, planes)
            data = self.words[addresses].copy()
            bad = np.isin(addresses, np.arange(self.config.scratchpad_words)[address])
            data[bad, lane] = apply_stuck(data[bad, lane], bit, kind, 8) & 255
            return data.reshape(planes, fields["rows"], -1)
    return Stuck


@pytest.mark.parametrize(("address", "words"), [(slice(128, 256), None), (slice(200, 201), [72])])
@pytest.mark.parametrize("kind", KINDS[:2])
def test_scratchpad_bits_are_named(address, words, kind):
    finding = only_finding(report(TINY, stuck_words(address, 3, 5, kind)))
    expected = {"unit": "scratchpad", "bank": 1, "lane": 3, "bit": 5, "kind": kind}
    assert finding.where == expected | ({"words": words} if words else {})
    assert f"bank 1, lane 3 bit 5 {kind}" in finding.text


def test_a_bit_of_all_banks_is_on_the_way_there():
    finding = only_finding(report(TINY, stuck_words(slice(None), 2, 0, KINDS[1])))
    assert finding.where == {"unit": "stream", "lane": 2, "bit": 0, "kind": KINDS[1]}


def test_an_address_bit_is_named():
    class Crossed(Memories):
        def addresses(self, fields, prefix, words, planes=1):
            places = super().addresses(fields, prefix, words, planes)
            # Written where it should be, read from elsewhere in bank 0.
            return np.where(places < 128, places ^ 16, places) if self.reads else places

        reads = False

        def store(self, fields):
            self.reads = True
            try:
                return super().store(fields)
            finally:
                self.reads = False
    finding = only_finding(report(TINY, Crossed))
    assert finding.where == {"unit": "scratchpad", "bank": 0, "address": 4}


def test_what_matrix_reads_of_one_bank_is_told_apart():
    class Stuck(Memories):
        def activations(self, fields):
            planes = super().activations(fields)
            places = self.addresses(fields, "act_", fields["act_words"], fields["digits"])
            return self.change(planes, places.reshape(len(planes), -1, fields["act_words"]) >= 128)

        def change(self, planes, there):
            planes[..., 3::4] = np.where(there, planes[..., 3::4] | 2, planes[..., 3::4])
            return planes

    class Crossed(Stuck):
        def change(self, planes, there):
            return np.where(there[..., :1], planes[:, ::-1], planes)
    where = {"unit": "activation reads", "bank": 1}
    finding = only_finding(report(TINY, Stuck))
    assert finding.where == where | {"lane": 3, "bit": 1, "kind": KINDS[1]}
    finding = only_finding(report(TINY, Crossed))
    assert finding.where == where
    assert finding.text.startswith("bank 1: ")


def test_sums_of_a_large_scratchpad_lead_to_the_word():
    config = PRESETS["swin_tiny"]
    board = ModelBoard(config, stuck_words(slice(40_000, 40_001), 7, 2, KINDS[0]))
    parts = {part.part: part for part in SelfTest(config).run(board)}
    assert only_finding(parts).where == {"unit": "scratchpad", "bank": 9, "lane": 7, "bit": 2,
                                         "kind": KINDS[0], "words": [40_000 - 9 * 4096]}


@pytest.mark.parametrize("config", [TINY, PACKED, PRESETS["digits"]], ids=["tiny", "packed",
                                                                         "digits"])
@pytest.mark.parametrize("name", ["bias", "mult", "shift"])
@pytest.mark.parametrize("word", [None, 9])
def test_parameter_bits_are_named(config, name, word):
    field = {"bias": "bias", "mult": "multiplier", "shift": "shift"}[name]
    lane, bit = config.lanes - 1, {"bias": 13, "mult": 10, "shift": 2}[name]

    class Stuck(Memories):
        def load_params(self, fields, beats):
            super().load_params(fields, beats)
            array, part = getattr(self, name), slice(None) if word is None else slice(
                word, word + 1)
            bits = {"bias": 32, "mult": self.config.mult_bits + 1, "shift": 7}[name]
            array[part, lane] = apply_stuck(array[part, lane], bit, KINDS[1], bits)
    finding = only_finding(report(config, Stuck))
    where = {"unit": "parameter memory", "lane": lane, "field": field, "bit": bit,
             "kind": KINDS[1]}
    assert finding.where == where | ({} if word is None else {"words": [word]})


def stuck_sums(buffer, column, entry, bit):
    """Return memories whose accumulators have a bit that is stuck at 1."""
    class Stuck(Memories):
        tiles = 0

        def accumulate(self, fields, planes, weights):
            total = super().accumulate(fields, planes, weights)
            config = self.config
            narrow = bool(fields["flags"] & Flag.NARROW)
            size = config.tile_columns(narrow=narrow)
            for first in range(0, total.shape[1], size):
                if self.tiles % config.acc_buffers == buffer and first + column < total.shape[1]:
                    part = slice(None) if entry is None else slice(entry, entry + 1)
                    total[part, first + column] = apply_stuck(total[part, first + column], bit,
                                                              KINDS[1], config.acc_bits)
                self.tiles += 1
            return total
    return Stuck


@pytest.mark.parametrize(("entry", "bit"), [(None, 4), (None, 15), (None, 16), (None, 22), (11, 0),
                                            (3, 31)])
@pytest.mark.parametrize("config", [TINY, PACKED], ids=["tiny", "packed"])
def test_accumulator_bits_are_named(config, entry, bit):
    finding = only_finding(report(config, stuck_sums(1, 2, entry, bit)))
    where = {"unit": "accumulators", "buffer": 1, "column": 2, "bit": bit, "kind": KINDS[1]}
    assert finding.where == where | ({} if entry is None else {"entries": [entry]})


@pytest.mark.parametrize("config", [TINY, PRESETS["arty_s7_50"]], ids=["tiny", "arty"])
def test_no_two_bits_of_an_accumulator_look_alike(config):
    probe = next(one for one in SelfTest(config).probes if one.part == "accumulators")
    sums = np.stack([probe.sums[:, 0], ~probe.sums[:, 0]])
    looks = {probe.seen(sums, bit, kind).tobytes()
             for bit in range(config.acc_bits) for kind in KINDS}
    assert len(looks) == len(KINDS) * config.acc_bits


def stuck_cell(row, column, signal, bit, kind):
    """Return memories behind an array with a stuck bit in the cell of `row` and `column`."""
    class Stuck(Memories):
        def accumulate(self, fields, planes, weights):
            total = super().accumulate(fields, planes, weights)
            config = self.config
            tiles = weights.astype(np.int8).astype(np.int64).reshape(
                -1, fields["act_words"], config.cols, config.rows)
            for tile in range(len(tiles)):
                place = tile * config.cols + column
                if place >= total.shape[1]:
                    continue
                for word in range(fields["act_words"]):
                    w = tiles[tile, word, column, row]
                    for digit, plane in enumerate(planes):
                        x = plane[:, word * config.rows + row]
                        right = x * w
                        if signal == "activation":
                            wrong = apply_stuck(x, bit, kind, config.act_bits + 1) * w
                        elif signal == "weight":
                            wrong = x * apply_stuck(w, bit, kind, config.weight_bits)
                        else:
                            wrong = apply_stuck(right, bit, kind,
                                                config.act_bits + config.weight_bits + 1)
                        total[:, place] += wrong - right << config.act_bits * digit
            return total
    return Stuck


@pytest.mark.parametrize(("signal", "bit"), [("activation", 0), ("activation", 8), ("weight", 7),
                                             ("weight", 3), ("product", 0), ("product", 11),
                                             ("product", 16)])
@pytest.mark.parametrize("kind", KINDS)
def test_cells_of_the_array_are_named(signal, bit, kind):
    finding = only_finding(report(TINY, stuck_cell(2, 1, signal, bit, kind)))
    assert (finding.where["unit"], finding.where["row"], finding.where["columns"]) == (
        "array", 2, [1])
    assert finding.text.startswith(f"row 2, column 1: {signal} bit ")


@pytest.mark.parametrize("config", [TINY, PACKED], ids=["tiny", "packed"])
def test_candidates_of_other_cells_never_look_alike(config):
    """Whatever single bit of a cell is stuck, the cell is the only one that explains it."""
    probe = next(one for one in SelfTest(config).probes if one.part == "array")
    faults = ArrayFaults(config, probe.acts, probe.tiles, (0, 8))
    right = probe.numbers(probe.expected)
    seen = {}
    for fault, results in faults.every(0):
        assert (results != right[..., :faults.group]).any(), fault
        if fault[2:] != (faults.sum_bits - 1, "inverted"):  # the same in whatever row it is
            assert seen.setdefault(results.tobytes(), fault[0]) == fault[0], fault
    assert len(seen) > 300


@pytest.mark.parametrize(("first", "unit"), [(0, "array row"), (2, "array")])
def test_activations_that_pass_on_wrong_are_named(first, unit):
    class Stuck(Memories):
        def accumulate(self, fields, planes, weights):
            right = super().accumulate(fields, planes, weights)
            planes = planes.copy()
            part = planes[..., 1::self.config.rows]
            planes[..., 1::self.config.rows] = apply_stuck(part, 4, KINDS[0], 9)
            wrong = super().accumulate(fields, planes, weights)
            there = np.arange(right.shape[1]) % self.config.cols >= first
            return np.where(there, wrong, right)
    where = only_finding(report(TINY, Stuck)).where
    assert (where["unit"], where["row"], where["signal"], where["bit"]) == (
        unit, 1, "activation", 4)
    assert where["columns"] == [0, 1, 2, 3][first:]


def test_a_word_of_the_weight_fifo_is_named():
    class Stuck(Memories):
        taken = 0

        def accumulate(self, fields, planes, weights):
            weights = weights.copy()
            slots = (self.taken + np.arange(len(weights))) % self.config.weight_fifo
            weights[slots == 5, 3] |= 16
            self.taken += len(weights)
            return super().accumulate(fields, planes, weights)
    parts = report(TINY, Stuck)
    assert parts["scratchpad"].outcome == "passed"
    assert "failed" in {part.outcome for part in parts.values()}
    # Alone, and behind an array without a fault, it is named.
    probe = next(one for one in SelfTest(TINY).probes if one.part == "weight FIFO")
    machine = Machine(TINY)
    machine.memories = Stuck(TINY)
    finding, = probe.diagnose(machine.run(probe.program.stream))
    assert finding.where == {"unit": "weight FIFO", "lane": 3, "bit": 4, "kind": KINDS[1]}


def test_a_lane_of_the_requantizer_is_named():
    config = PRESETS["digits"]

    class Wrong(Memories):
        def drain_operands(self, fields):
            (bias, mult, shift), residual = super().drain_operands(fields)
            bias = np.broadcast_to(bias, mult.shape[-1:] if mult.ndim == 1 else bias.shape).copy()
            if bias.ndim:
                bias[2::config.lanes] += bias[2::config.lanes] & 1
            return (bias, mult, shift), residual
    finding = only_finding(report(config, Wrong))
    assert finding.where == {"unit": "requantizer", "lane": 2}


def test_the_copy_of_the_parameters_for_vector_is_tested():
    config = PRESETS["digits"]

    class Stuck(Memories):
        def finish_vector(self, opcode, fields, x):
            bias = self.bias
            self.bias = bias.copy()
            self.bias[200, 1] |= 1 << 20
            super().finish_vector(opcode, fields, x)
            self.bias = bias
    finding = only_finding(report(config, Stuck))
    assert finding.where == {"unit": "parameter memory of VECTOR", "lane": 1, "field": "bias",
                             "bit": 20, "kind": KINDS[1], "words": [200]}


@pytest.mark.parametrize("entry", [None, 77])
def test_table_bits_are_named(entry):
    for table, unit in (0, "GELU table"), (1, "table of exponentials"):
        class Stuck(Memories):
            def load_table(self, fields, beats, table=table):
                super().load_table(fields, beats)
                part = slice(None) if entry is None else slice(entry, entry + 1)
                self.tables[table, part] = apply_stuck(self.tables[table, part], 6, KINDS[1],
                                                       CODE_BITS) & 255
        finding = only_finding(report(TINY, Stuck))
        assert finding.where == {"unit": unit, "lane": 0, "bit": 6, "kind": KINDS[1]} | (
            {} if entry is None else {"entries": [entry]})


def test_a_row_factor_is_found():
    class Stuck(Memories):
        def finish_vector(self, opcode, fields, x):
            super().finish_vector(opcode, fields, x)
            self.factors[5] |= 8
    parts = report(TINY, Stuck)
    assert parts["row factors"].outcome == "failed"
    assert "entries from 0 on" in parts["row factors"].findings[0].text
    assert {part.outcome for name, part in parts.items() if name != "row factors"} == {"passed"}


def test_a_program_that_does_not_end_is_a_failure_of_its_part():
    class Deaf(ModelBoard):
        def run(self, inputs):
            if self.runs == 3:
                self.runs += 1
                raise HardwareError(8, 2, 9)
            return super().run(inputs)
    parts = SelfTest(TINY).run(Deaf(TINY))
    failed = [part for part in parts if part.outcome == "failed"]
    assert [part.part for part in failed] == ["parameter memory"]
    assert failed[0].findings[0].text.startswith("its program did not end: instruction 2")


def test_a_dead_line_is_no_finding():
    class Dead(ModelBoard):
        def reset(self):
            if self.runs:
                raise LinkError("nothing answers")

        def run(self, inputs):
            self.runs += 1
            raise LinkError("nothing answers")
    with pytest.raises(LinkError):
        SelfTest(TINY).run(Dead(TINY))


def test_a_board_that_takes_nothing_but_can_be_reset_is_a_finding():
    class Stalls(ModelBoard):
        def run(self, inputs):
            if self.runs == 1:
                self.runs += 1
                raise LinkError("it has taken nothing for 30 s")
            return super().run(inputs)
    failed = [part for part in SelfTest(TINY).run(Stalls(TINY)) if part.outcome == "failed"]
    assert [part.part for part in failed] == ["activation reads"]


def test_what_does_not_fit_is_told():
    config = dataclasses.replace(PRESETS["tiny"], rows=64, cols=64, lanes=1, banks=1, bank_depth=16)
    test = SelfTest(config)
    assert test.untested
    assert all("scratchpad must have" in part.note for part in test.untested)


def test_stuck_bits_tell_kind_and_extent():
    right = np.array([[0b01], [0b10], [0b11], [0b00]])
    whole = stuck_bits(right, right | 1)
    assert [(bit.bit, bit.kind, bit.whole, bit.entries) for bit in whole] == [
        (0, KINDS[1], True, (1, 3))]
    part = stuck_bits(right, right & np.array([[3], [1], [3], [3]]))
    assert [(bit.bit, bit.kind, bit.whole, bit.entries) for bit in part] == [
        (1, KINDS[0], False, (1,))]
    assert stuck_bits(right, right) == []


def test_instructions_wait_for_the_one_before():
    program = InstructionList(TINY)
    program.load(0, np.ones((2, 4), np.uint8))
    program.store(0, 2)
    made = program.program()
    assert made.frames == (2,)
    frame, = Machine(TINY, seed=1).run(made.stream)
    assert (frame == 1).all()
