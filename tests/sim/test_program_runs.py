"""Hostile programs on the RTL, and that what judges them notices broken hardware."""

import dataclasses

import pytest

from systola.cli.main import main
from systola.hw.accelerator import Accelerator
from systola.hw.contract.checks import check_steps
from systola.hw.contract.isa import Engine, Error, Opcode, encode
from systola.hw.control.watchdog import patience
from systola.sim.soak.judge import Soak
from systola.sim.soak.kinds import KINDS
from systola.sim.soak.order import is_determined, leftovers, scan, vague_words
from systola.sim.soak.program_player import build_soak
from systola.sim.soak.program_runs import CONFIGS, single_bits, soak_programs

CONFIG = CONFIGS["published"]
BEGIN, END = encode(Opcode.BEGIN, config_hash=CONFIG.hash), encode(Opcode.END)
REGION = {"base": 0, "stride": 1, "rows": 2, "words": 1}
VECTOR = {"src_base": 0, "src_stride": 1, "src_plane": 4, "rows": 2, "words": 1, "lanes_last": 3,
          "dst_base": 20, "dst_stride": 1, "dst_plane": 4, "out_bits": 5, "param_base": 0,
          "epsilon_low": 0, "epsilon_high": 0, "share": 0}
LOAD_BIT, VECTOR_BIT = 1 << Engine.LOAD, 1 << Engine.VECTOR


def clean(result):
    """Return whether nothing was wrong."""
    return not (result["hangs"] or result["out_of_bounds"] or result["wrong_results"])


@pytest.mark.slow
def test_hostile_programs():
    result = soak_programs(304, 3, configs={"published": CONFIG})
    assert result["examples"] == []
    assert clean(result)
    assert result["programs"] == sum(result["kinds"].values()) == sum(result["ended"].values()) \
        == 304
    assert result["kinds"].keys() == {*KINDS, "one bit of a short program"}
    assert result["ended"].keys() >= {"done", "truncated", "BAD_OPCODE", "CONFIG_HASH",
                                      "SCRATCHPAD_RANGE", "FIELD_RANGE", "BEAT_COUNT", "DEADLOCK",
                                      "LEFTOVER"}
    assert result["compared"] > 60
    assert 50 < result["stalled"] < 250
    assert 100 < result["silence"] < patience(CONFIG) / 4


@pytest.mark.slow
def test_hostile_programs_with_compared_norms():
    """Any share and epsilon, in the model and in Verilog; results of more bits are refused."""
    config = dataclasses.replace(CONFIG, act_bits=4, norm="compared")
    result = soak_programs(200, 3, configs={"compared": config})
    assert result["examples"] == []
    assert clean(result)
    assert result["compared"] > 40
    assert result["ended"]["FIELD_RANGE"] > 0


@pytest.mark.slow
def test_every_single_bit_of_a_short_program():
    cases = single_bits(CONFIG)
    assert len({case.stream for case in cases}) == len(cases) == 8 * (4 * 64 + 2 * 4)
    with Soak(CONFIG) as soak:
        for first in range(0, len(cases), 300):
            batch = cases[first:first + 300]
            soak.judge(batch, soak.simulate(batch))
    assert soak.examples == []
    assert soak.counts["programs"] == len(cases)
    # Most bits are of no field, or change what is computed, as in the model.
    assert soak.ended["done"] > soak.counts["compared"] > len(cases) / 3
    assert soak.ended["CONFIG_HASH"] == 64
    assert soak.ended["truncated"] > 0


@pytest.mark.slow
def test_planted_faults_are_noticed(monkeypatch):
    """No check of scratchpad addresses, and a watchdog that sleeps."""
    def steps(config):
        return {opcode: tuple(
            dataclasses.replace(step, cause=Error.NONE)
            if step.cause is Error.SCRATCHPAD_RANGE else step for step in steps)
            for opcode, steps in check_steps(config).items()}

    monkeypatch.setattr("systola.hw.control.checker.check_steps", steps)
    monkeypatch.setattr("systola.hw.core.patience", lambda config: 1 << 30)
    built = build_soak(CONFIG, optimize="-O0", key="faults",
                       make=lambda: Accelerator(CONFIG, trace=True))
    monkeypatch.setattr("systola.sim.soak.judge.build_soak", lambda config: built)
    result = soak_programs(76, 1, configs={"published": CONFIG})
    assert min(result["hangs"], result["out_of_bounds"], result["wrong_results"]) > 0
    assert any("beyond a memory" in line for line in result["examples"])
    assert any(line.startswith("hangs: ") for line in result["examples"])


def vector(opcode=Opcode.LAYERNORM, *, wait=0, signal=0, **fields):
    return encode(opcode, wait=wait, signal=signal, **(VECTOR | fields))


def mean(*, signal=0, **fields):
    fields = {name: value for name, value in VECTOR.items()
              if name not in ("param_base", "share") and not name.startswith("epsilon")} | {
        "wide": 0, "mult": 1, "shift": 0} | fields
    return encode(Opcode.MEAN, signal=signal, **fields)


def load(wait=0, signal=0, **fields):
    fields = REGION | fields
    beats = fields["rows"] * fields["words"]
    return encode(Opcode.LOAD, wait=wait, signal=signal, beats=beats, **fields) + bytes(4 * beats)


@pytest.mark.parametrize(("parts", "determined"), [
    ([load(), vector()], False),
    ([load(signal=VECTOR_BIT), vector(wait=LOAD_BIT)], True),
    ([load(signal=VECTOR_BIT), load(), vector(wait=LOAD_BIT)], False),  # waits for the first alone
    ([load(), load(signal=VECTOR_BIT), vector(wait=LOAD_BIT)], True),
    ([vector(), load(base=40)], True),  # nothing meets
    ([vector(), encode(Opcode.STORE, **REGION)], True),  # both read
    ([vector(), encode(Opcode.STORE, **REGION | {"base": 20})], False),
    ([vector(signal=LOAD_BIT), encode(Opcode.STORE, wait=VECTOR_BIT, **REGION | {"base": 20})],
     True),
    ([vector(dst_base=1)], False),  # writes into its own source
    ([mean(), load(base=4), load(base=21), load(base=24)], True),  # one plane in, one row out
    ([mean(wide=1), load(base=4)], False),
    ([mean(out_bits=9), load(base=24)], False),
    ([mean(dst_stride=0)], True),
    ([mean(dst_base=1)], False),
    ([vector(dst_stride=0)], False),  # and over its own results
    ([vector(lanes_last=2, signal=LOAD_BIT),
      encode(Opcode.STORE, wait=VECTOR_BIT, **REGION | {"base": 20})], False),  # stores anything
])
def test_order_by_tokens(parts, determined):
    found = scan(b"".join([BEGIN, *parts, END]), CONFIG)
    assert found.complete
    assert is_determined(found.steps) == determined


def test_scan_tells_where_a_stream_ends():
    stream = BEGIN + load() + vector(src_base=47) + END
    found = scan(stream, CONFIG)
    assert (found.cause, found.index, found.complete) == (Error.SCRATCHPAD_RANGE, 2, False)
    assert found.words == [int.from_bytes(part[:4], "little")
                           for part in (BEGIN, load(), vector(src_base=47))]
    found = scan(stream[:64 + 64 + 8], CONFIG)  # the data is complete, and nothing follows
    assert (found.cause, found.index, found.complete) == (Error.NONE, 2, False)
    found = scan(BEGIN + END + stream, CONFIG)
    assert (found.complete, found.beats) == (True, 32)
    assert not found.steps[0].writes


def test_leftovers_and_vague_lanes():
    for parts, left in (([], False), ([load(signal=VECTOR_BIT)], True),
                        ([load(signal=LOAD_BIT)], False),  # a token to oneself is none
                        ([load(signal=VECTOR_BIT), vector(wait=LOAD_BIT)], False),
                        ([encode(Opcode.LOAD_WEIGHTS, beats=2) + bytes(8)], True)):
        assert leftovers(scan(b"".join([BEGIN, *parts, END]), CONFIG).steps, CONFIG) == left
    for lanes, words in (3, 0), (2, 1 << 21 | 1 << 24):
        found = scan(BEGIN + vector(words=2, lanes_last=lanes, dst_stride=3), CONFIG)
        assert vague_words(found.steps) == words
    found = scan(BEGIN + mean(words=2, lanes_last=2, out_bits=9), CONFIG)
    assert vague_words(found.steps) == 1 << 21 | 1 << 25


@pytest.mark.parametrize("failure", [None, "hangs", "out_of_bounds", "wrong_results"])
def test_command_fails_if_a_program_did(monkeypatch, capsys, failure):
    result = {name: int(name == failure) for name in
              ("programs", "cycles", "hangs", "out_of_bounds", "wrong_results")}
    result |= {"ended": {"done": 7}, "kinds": {"valid": 7}, "examples": ["what it was"]}
    calls = []

    def fake(count, seed, *, cluster, progress):
        assert cluster is None
        calls.append((count, seed))
        return result

    monkeypatch.setattr("systola.sim.soak.program_runs.soak_programs", fake)
    assert main(["soak", "--programs", "7", "--seed", "5"]) == (failure is not None)
    assert calls == [(7, 5)]
    assert "what it was" in capsys.readouterr().out
