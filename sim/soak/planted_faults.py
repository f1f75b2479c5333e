"""Faults in a board's netlist, one of which at a time is there: selected while it runs.

Yosys flattens the board's Verilog and puts a choice in front of a pin, or behind it, for every
fault (its `mutate`); lost bits of memories are written over in every cycle. All are made active by
a number at a port of the board, 0 for none, so that one compilation serves for all of them.
"""

import json
import random
import re
import subprocess
from dataclasses import asdict, dataclass, field

from systola.files.cache import entry
from systola.hw.contract.dsp_packing import plan_packing
from systola.hw.contract.numbers import CODE_BITS, SHIFT_BITS
from systola.hw.verilog import find_yosys

__all__ = ["FAULT_BITS", "PlantedFault", "choose_faults", "faulty_verilog"]

FAULT_BITS = 10
"""Bits of the port that selects a fault."""

_CORE = r"accelerator.core."
_KINDS = {"const0": "stuck at 0", "const1": "stuck at 1", "inv": "inverted"}
_MEMORY = re.compile(r"^ *reg \[(\d+):0\] (\\\S+) +\[(\d+):0\];", re.MULTILINE)

_SHARES = {"activation": 4, "weight": 4, "product": 5, "inverted pin": 3, "scratchpad cell": 4,
           "scratchpad pin": 4, "parameter cell": 3, "parameter pin": 2, "accumulator cell": 3,
           "accumulator pin": 3, "GELU table": 2, "table of exponentials": 3}
"""Of 40 faults, how many of each kind."""


@dataclass(frozen=True)
class PlantedFault:
    """One fault: its kind and text, where it is, and how it is made.

    ``where`` has what a diagnosis must name. ``pin`` is port, bit and mode of a ``cell``, or
    ``word`` the word, bit and value of a memory's lost bit.
    """

    kind: str
    text: str
    cell: str
    where: dict = field(default_factory=dict)
    pin: tuple = ()
    word: tuple = ()


def choose_faults(config, count, seed):
    """Return `count` faults by `seed`, of all kinds in their shares."""
    rng, faults = random.Random(f"{seed} planted"), []
    absent = {"GELU table": config.gelu != "table",
              "table of exponentials": not config.exponential_tables}
    kinds = [kind for kind, share in _SHARES.items() if not absent.get(kind)
             for _ in range(share)]
    while len(faults) < count:
        fault = _choose(rng, config, kinds[len(faults) * len(kinds) // count])
        if fault not in faults:
            faults.append(fault)
    return faults


def _choose(rng, config, kind):
    if kind in ("activation", "weight", "product", "inverted pin"):
        return _array_fault(rng, config, kind)
    memory, _, place = kind.partition(" ")
    choose = {"scratchpad": _bank, "parameter": _param, "accumulator": _accumulator,
              "GELU": _gelu, "table": _exponentials}[memory]
    return choose(rng, config, kind, place == "pin")


def _array_fault(rng, config, kind):
    """Return a fault at the multiplier of a cell."""
    packing = plan_packing(config.weight_bits, config.act_bits, config.rows,
                           cols=config.cols) if config.pe_style == "dsp_packed" else None
    group = packing.group if packing else 1
    row, column = rng.randrange(config.rows), rng.randrange(config.cols // group)
    act, weight = config.act_bits + 1, packing.weight_span if packing else config.weight_bits
    mode = rng.choice(("const0", "const1"))
    signal = kind
    if kind == "inverted pin":
        mode, signal = "inv", rng.choice(("activation", "weight", "product"))
    bits = {"activation": act, "weight": weight, "product": act + weight}[signal]
    # Of the slice the weights come first, of a plain cell the activation.
    ports = {"activation": "AB", "weight": "BA", "product": "YY"}[signal]
    bit = rng.randrange(bits)
    columns = [column * group + k for k in range(group)]
    return PlantedFault(
        kind, f"row {row}, columns {columns}: {signal} bit {bit} {_KINDS[mode]}",
        f"array.cell_{row}_{column}", {"unit": "array", "row": row, "columns": columns},
        pin=(ports[packing is not None], bit, mode))


def _memory_fault(rng, kind, text, cell, where, *, words, bits, ports, pin, bit=None):
    """Return a stuck data pin of a memory with so many read ports, or a lost bit of a word."""
    bit = rng.randrange(bits) if bit is None else bit
    mode = rng.choice(("const0", "const1"))
    if pin:
        return PlantedFault(kind, f"{text} {_KINDS[mode]}", cell, where,
                            pin=("RD_DATA", bit + bits * rng.randrange(ports), mode))
    word = rng.randrange(words)
    return PlantedFault(kind, f"{text} {_KINDS[mode]} in word {word}", cell, where,
                        word=(word, bit, int(mode == "const1")))


def _bank(rng, config, kind, pin):
    bank, bit = rng.randrange(config.banks), rng.randrange(config.word_bits)
    cell = f"scratchpad.bank{bank}.memory"
    if pin and rng.random() < 0.5:
        place = rng.randrange(config.bank_depth.bit_length() - 1)
        return PlantedFault(kind, f"bank {bank}: address bit {place} inverted", cell,
                            {"bank": bank}, pin=("RD_ADDR", place, "inv"))
    lane, place = divmod(bit, CODE_BITS)
    where = {"bank": bank, "lane": lane, "bit": place}
    return _memory_fault(rng, kind, f"bank {bank}, lane {lane} bit {place}", cell, where,
                         words=config.bank_depth, bits=config.word_bits, ports=2, pin=pin, bit=bit)


def _param(rng, config, kind, pin):
    fields = {"bias": min(32, config.acc_bits), "multiplier": config.mult_bits + 1,
              "shift": SHIFT_BITS}
    starts = {"bias": 0, "multiplier": 32, "shift": 33 + config.mult_bits}
    name, lane = rng.choice(list(fields)), rng.randrange(config.lanes)
    place = rng.randrange(fields[name])
    record = 33 + config.mult_bits + SHIFT_BITS
    where = {"unit": "parameter memory", "lane": lane, "field": name, "bit": place}
    # Read port 0 is that of MATRIX, or both engines'.
    return _memory_fault(rng, kind, f"lane {lane}, {name} bit {place}", "params.memory", where,
                         words=config.param_depth, bits=record * config.lanes, ports=1, pin=pin,
                         bit=record * lane + starts[name] + place)


def _accumulator(rng, config, kind, pin):
    column, buffer = rng.randrange(config.cols), rng.randrange(config.acc_buffers)
    bit = rng.randrange(config.acc_bits)
    where = {"unit": "accumulators", "column": column, "buffer": buffer, "bit": bit}
    return _memory_fault(rng, kind, f"column {column}, buffer {buffer}, bit {bit}",
                         f"matrix.sums.memory_{column}_{buffer}", where,
                         words=config.token_depth, bits=config.acc_bits, ports=1, pin=pin, bit=bit)


def _gelu(rng, config, kind, pin):
    lane, bit = rng.randrange(0, config.vector_lanes, 2), rng.randrange(CODE_BITS)
    where = {"unit": "GELU table", "lane": lane, "bit": bit}
    return _memory_fault(rng, kind, f"lane {lane}, bit {bit}",
                         f"vector.gelu.table.memory_{lane}", where, words=1 << CODE_BITS,
                         bits=CODE_BITS, ports=1, pin=rng.random() < 0.5, bit=bit)


def _exponentials(rng, config, kind, pin):
    bits = CODE_BITS * config.exponential_tables
    lane, bit = rng.randrange(0, config.vector_lanes, 2), rng.randrange(bits)
    where = {"unit": "table of exponentials", "lane": lane, "bit": bit}
    return _memory_fault(rng, kind, f"lane {lane}, bit {bit}",
                         f"vector.softmax.table.memory_{lane}", where, words=1 << CODE_BITS,
                         bits=bits, ports=1, pin=rng.random() < 0.5, bit=bit)


def faulty_verilog(verilog, top, faults):
    """Return Verilog that says the same as `verilog` while the port ``fault`` of `top` is 0.

    At number k, `faults` [k - 1] is there.

    Raises
    ------
    ValueError
        If there are more faults than the port has numbers.
    RuntimeError
        If Yosys fails, or the design has not what a fault names.
    """
    if not len(faults) < 1 << FAULT_BITS:
        raise ValueError(f"faults must be at most {(1 << FAULT_BITS) - 1}, not {len(faults)}")
    parts = [verilog.encode(), top, [asdict(fault) for fault in faults], _SCRIPT]
    with entry(f"{top}-faults", parts) as (folder, fill):
        if fill:
            (fill / "whole.v").write_text(verilog)
            _yosys(fill, _SCRIPT.format(top=top))
            cells = _cells((fill / "cells.txt").read_text())
            lines = [f"read_rtlil flat.il; add -input fault {FAULT_BITS}"]
            for number, fault in enumerate(faults, 1):
                if fault.pin:
                    port, bit, mode = fault.pin
                    lines.append(f"mutate -mode {mode} -module {top} -cell "
                                 f"{_find(cells, fault.cell)} -port {port} -portbit {bit} "
                                 f"-ctrlbit {bit} -ctrl fault {FAULT_BITS} {number}")
            lines.append("write_verilog -noattr faulty.v")
            _yosys(fill, "\n".join(lines))
            text = _with_lost_bits((fill / "faulty.v").read_text(), top, faults)
            (fill / "faulty.v").write_text(text)
            for name in "whole.v", "flat.il", "cells.txt", "script.ys":
                (fill / name).unlink()
            (fill / "faults.json").write_text(json.dumps([asdict(fault) for fault in faults]))
    return (folder / "faulty.v").read_text()


_SCRIPT = """read_verilog whole.v
hierarchy -top {top}
proc
flatten
opt_clean
memory_collect
tee -o cells.txt select -list t:$mul t:$mem_v2
write_rtlil flat.il
"""


def _yosys(folder, script):
    (folder / "script.ys").write_text(script)
    done = subprocess.run([find_yosys(), "-q", "script.ys"], cwd=folder, check=False,
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"yosys cannot plant faults:\n{(done.stderr or done.stdout).strip()}")


def _cells(listing):
    """Return the names of cells by what they are called without Yosys' additions."""
    cells = {}
    for line in listing.splitlines():
        name = line.partition("/")[2].strip()
        plain = name.removeprefix("$flatten").replace("\\", "").partition(".$mul")[0]
        cells.setdefault(plain, name)
    return cells


def _find(cells, name):
    found = [cell for plain, cell in cells.items() if plain == _CORE + name
             or plain == f"{_CORE}matrix.{name}"]
    if len(found) != 1:
        raise RuntimeError(f"the netlist must have one cell {name!r}, not {len(found)}")
    # Names that Yosys made begin with $, others with a backslash.
    return found[0] if found[0].startswith("$") else "\\" + found[0]


def _with_lost_bits(text, top, faults):
    """Return the Verilog with processes that write over the lost bits of memories."""
    memories = {found[2][1:]: (int(found[1]), int(found[3])) for found in _MEMORY.finditer(text)}
    lines = []
    for number, fault in enumerate(faults, 1):
        if not fault.word:
            continue
        word, bit, value = fault.word
        name = _CORE + fault.cell
        if name not in memories or bit > memories[name][0] or word > memories[name][1]:
            raise RuntimeError(f"the netlist must have a memory {name!r} with bit {bit} of word "
                               f"{word}")
        lines.append(f"  always @(posedge clk) if (fault == {FAULT_BITS}'d{number}) "
                     f"\\{name} [{word}][{bit}] <= 1'b{value};")
    module = re.search(rf"^module {top}\(.*?^endmodule", text, re.MULTILINE | re.DOTALL)
    if not module:
        raise RuntimeError(f"Yosys has written no module {top!r}")
    end = module.end() - len("endmodule")
    return text[:end] + "\n".join(lines) + "\n" + text[end:]
