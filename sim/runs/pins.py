"""What the pins of an accelerator did in a simulation, to be played to another form of it.

A module with the accelerator's ports goes between the host (``sim/verilog/stream_files.py``) and
the accelerator and writes, at every rising edge of the clock, what was on all pins before it.
Played as inputs, the record drives a mapped netlist exactly as the host drove the Verilog, and says
what its outputs must be; so the netlist needs no bench of its own.
"""

import re
from dataclasses import dataclass

import numpy as np

from systola.hw.generate import TOP
from systola.sim.runs.simulate import accelerator_verilog, playing
from systola.sim.verilog.runner import build_text
from systola.sim.verilog.stream_files import HOST, host_verilog
from systola.sw_driver.program.image import decode_outputs

__all__ = ["PIN_FILE", "Pins", "decode_pins", "pin_recorder", "record_pins"]

PIN_FILE = "pins.bin"
"""Where the record goes, in the folder that the simulation runs in."""

_RECORDER = "recorder"
_PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\w+) ?;", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Pins:
    """A record.

    Attributes
    ----------
    values : dict of str to uint8 array (cycles, bytes)
        What every pin showed at the end of each cycle, little-endian.
    begin, end : int
        The first cycle in which the accelerator was busy, and the one after the last.
    busy : int
        Cycles in which it was.
    tensors : list of dict
        By input, every tensor that the program stored.
    """

    values: dict
    begin: int
    end: int
    busy: int
    tensors: list


def record_pins(config, program, inputs, *, optimize="-O0"):
    """Run `inputs` through `program` on the simulated accelerator of `config`.

    Parameters
    ----------
    config : AcceleratorConfig
    program : Program
        For that accelerator.
    inputs : dict of str to int array (images, rows, channels)
        What the program takes, an image at a time.
    optimize : str
        See `systola.sim.verilog.runner.build_component`.

    Returns
    -------
    Pins

    Raises
    ------
    SimulationError
        If the simulation cannot be compiled, hangs, or the accelerator reports an error.
    """
    verilog = accelerator_verilog(config).read_text()
    ports = _ports(verilog)
    built = build_text(verilog + pin_recorder(ports, TOP) + host_verilog(config, _RECORDER),
                       top=HOST, optimize=optimize)
    with playing(program, built, "systola.sim.benches.gates") as (session, params):
        _, arrays = session.run(params, inputs)
    return _taken_apart(arrays.pop("pins"), ports, arrays, len(next(iter(inputs.values()))))


def pin_recorder(ports, inside):
    """Return the Verilog of the module between host and accelerator.

    Parameters
    ----------
    ports : dict of str to (str, int)
        Direction and width of every pin, the clock among them.
    inside : str
        The module of the accelerator; it has these ports, and so has this one.
    """
    lines = [f"module {_RECORDER}({', '.join(ports)});"]
    lines += [f"  {way} [{bits - 1}:0] {name};" for name, (way, bits) in ports.items()]
    lines.append(f"  {inside} recorded({', '.join(f'.{name}({name})' for name in ports)});")
    # A record is whole words of 32 bits, pin after pin from its lowest bit.
    total = sum(bits for _, bits in ports.values())
    words = -(-total // 32)
    lines += [f"  wire [{32 * words - 1}:0] all = {{{', '.join(reversed(ports))}}};",
              "  integer file;",
              f'  initial file = $fopen("{PIN_FILE}", "wb");',
              "  always @(posedge clk) begin"]
    lines += [f'    $fwrite(file, "%u", all[{32 * k} +: 32]);' for k in range(words)]
    lines += ["    $fflush(file);", "  end", "endmodule", ""]
    return "\n".join(lines)


def decode_pins(values, program, begin):
    """Return the tensors by run in the results on the pins: a list of dicts as in `Pins`.

    Parameters
    ----------
    values : dict of str to uint8 array (cycles, bytes)
        ``m_axis_*``, as of `Pins` or of a netlist that was played.
    program : Program
        What ran, once or several times.
    begin : int
        Cycle from which on results count.

    Raises
    ------
    ProgramError
        If there are not the frames of the program.
    """
    taken = np.ones(len(values["m_axis_tvalid"]) - begin, bool)
    for name in "m_axis_tvalid", "m_axis_tready":
        taken &= (values[name][begin:, 0] & 1).astype(bool)
    beats = values["m_axis_tdata"][begin:][taken]
    ends = np.flatnonzero(values["m_axis_tlast"][begin:][taken][:, 0] & 1) + 1
    frames = np.split(beats, ends)[:-1] if len(ends) else []
    count = len(program.frames)
    runs = [frames[k:k + count] for k in range(0, len(frames), count)]
    return [decode_outputs(program, run) for run in runs]


def _ports(verilog):
    """Return the pins of `TOP` in Verilog as Yosys writes it: direction and width by name."""
    text = re.search(rf"^module {TOP}\(.*?^endmodule", verilog, re.M | re.S)[0]
    return {name: (way, int(top or 0) + 1) for way, top, name in _PORT.findall(text)}


def _taken_apart(data, ports, arrays, count):
    """Return the `Pins` of a file of records and the tensors of `count` inputs."""
    total = sum(bits for _, bits in ports.values())
    bits = np.unpackbits(data.reshape(-1, -(-total // 32) * 4), axis=1, bitorder="little")
    values, start = {}, 0
    for name, (_, width) in ports.items():
        values[name] = np.packbits(bits[:, start:start + width], axis=1, bitorder="little")
        start += width
    busy = np.flatnonzero(values["trace"][:, 0] & 1)
    tensors = [{name.split(".", 1)[1]: value for name, value in arrays.items()
                if name.startswith(f"{image}.")} for image in range(count)]
    return Pins(values=values, begin=int(busy[0]), end=int(busy[-1]) + 1, busy=len(busy),
                tensors=tensors)
