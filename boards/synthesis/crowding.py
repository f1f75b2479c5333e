"""What makes a mapped design hard to place and route on Xilinx' 7 series: control sets, fan-out."""

from collections import Counter

from systola.boards.synthesis.depth import top_module
from systola.boards.synthesis.primitives import FLIP_FLOP, LUT

__all__ = ["SLICE_FLIP_FLOPS", "crowding"]

SLICE_FLIP_FLOPS = 8
"""Flip-flops of a slice, which share clock, enable and reset."""

_CONTROL = "C", "CE"
_RESETS = "R", "S", "CLR", "PRE"
_SHOWN = 8


def crowding(netlist, *, top=None):
    """Return what the placer has to fit together.

    Parameters
    ----------
    netlist : dict
        Flat, as Yosys' ``write_json`` writes it after ``synth_xilinx``.
    top : str, optional
        The module, as for `systola.boards.synthesis.depth.logic_depth`.

    Returns
    -------
    dict
        ``control_sets``: different triples of clock, enable and reset, with the clock's edge and
        whether the reset waits for it. ``flip_flop_slices``: slices that flip-flops need at
        least, as those of a slice share their control set. ``lut_ff_pairs``: flip-flops with a LUT
        that drives nothing else, which placers keep together. ``fan_out``: the eight nets that
        most pins read, as ``{"net", "pins"}``, clocks left out.

    Raises
    ------
    ValueError
        If there is no such module.
    """
    module = top_module(netlist, top)
    sets, readers, drivers, clocks = Counter(), Counter(), {}, set()
    for cell in module["cells"].values():
        pins = cell["connections"]
        if FLIP_FLOP.fullmatch(cell["type"]):
            reset = [pins[pin][0] for pin in _RESETS if pin in pins]
            sets[*(pins[pin][0] for pin in _CONTROL), *reset, *_kind(cell["type"])] += 1
        for pin, bits in pins.items():
            if cell["port_directions"][pin] == "output":
                drivers |= dict.fromkeys(bits, cell["type"])
                if cell["type"].startswith("BUFG"):
                    clocks.update(bits)
            else:
                readers.update(bit for bit in bits if isinstance(bit, int))
    pairs = sum(1 for cell in module["cells"].values() if FLIP_FLOP.fullmatch(cell["type"])
                and readers[cell["connections"]["D"][0]] == 1
                and LUT.fullmatch(drivers.get(cell["connections"]["D"][0], "")))
    names = {}
    for name, net in module["netnames"].items():
        for place, bit in enumerate(net["bits"]):
            if isinstance(bit, int):
                own = f"{name}[{place}]" if len(net["bits"]) > 1 else name
                # Of a net's names the shortest that Yosys has not made.
                names[bit] = min(names.get(bit, own), own,
                                 key=lambda text: ("$" in text, len(text), text))
    most = [(bit, count) for bit, count in readers.most_common(_SHOWN + len(clocks))
            if bit not in clocks][:_SHOWN]
    return {"control_sets": len(sets),
            "flip_flop_slices": sum(-(-count // SLICE_FLIP_FLOPS) for count in sets.values()),
            "lut_ff_pairs": pairs,
            "fan_out": [{"net": names.get(bit, str(bit)), "pins": count} for bit, count in most]}


def _kind(flip_flop):
    """Return ``(falling edge, asynchronous reset)``, which a slice has for all its flip-flops."""
    return flip_flop.endswith("_1"), flip_flop.startswith(("FDC", "FDP"))
