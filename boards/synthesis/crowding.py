"""What makes a mapped design hard to place and route on Xilinx' 7 series: control sets, fan-out."""

from collections import Counter

from systola.boards.synthesis.depth import top_module
from systola.boards.synthesis.primitives import CASCADES, FLIP_FLOP, LUT
from systola.hw.contract.dsp_packing import DSP48E1

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
        that drives nothing else, which placers keep together. ``dsp_regions``: halves of clock
        regions that DSP slices need: the tile of two slices is filled by a chain only, and chains
        do not leave their half. ``connections``: pins that nets lead to by the wires between
        slices, clocks and cascades left out; ``dsp_connections``: pins of DSP slices among them,
        with outputs that something reads, which crowd in few columns. ``fan_out``: the eight nets
        that most pins read, as ``{"net", "pins"}``, clocks left out.

    Raises
    ------
    ValueError
        If there is no such module.
    """
    module = top_module(netlist, top)
    sets, readers, drivers, clocks, slices = Counter(), Counter(), {}, set(), {}
    for name, cell in module["cells"].items():
        pins = cell["connections"]
        if FLIP_FLOP.fullmatch(cell["type"]):
            reset = [pins[pin][0] for pin in _RESETS if pin in pins]
            sets[*(pins[pin][0] for pin in _CONTROL), *reset, *_kind(cell["type"])] += 1
        if cell["type"] == "DSP48E1":
            slices[name] = pins
        for pin, bits in pins.items():
            if cell["port_directions"][pin] == "output":
                drivers |= dict.fromkeys(bits, cell["type"])
                if cell["type"].startswith("BUFG"):
                    clocks.update(bits)
            elif pin not in CASCADES:
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
            "lut_ff_pairs": pairs, "dsp_regions": _regions(_chains(slices)),
            "connections": sum(count for bit, count in readers.items() if bit not in clocks),
            "dsp_connections": sum(
                bit in readers and bit not in clocks for pins in slices.values()
                for pin, bits in pins.items() if pin not in CASCADES for bit in bits),
            "fan_out": [{"net": names.get(bit, str(bit)), "pins": count} for bit, count in most]}


def _chains(slices):
    """Return how many slices each chain of DSP slices has, those alone included."""
    owners = {bit: name for name, pins in slices.items() for bit in pins.get("PCOUT", ())
              if isinstance(bit, int)}
    below = {name: owners[bit] for name, pins in slices.items()
             for bit in pins.get("PCIN", ())[:1] if bit in owners}
    lengths = []
    for name in set(slices) - set(below.values()):
        length = 1
        while name in below:
            name, length = below[name], length + 1
        lengths.append(length)
    return lengths


def _regions(chains):
    """Return how many halves of clock regions chains fit into, the longest first."""
    free = []
    for length in sorted(chains, reverse=True):
        tiles = -(-length // 2)
        place = next((k for k, left in enumerate(free) if left >= tiles), None)
        if place is None:
            place = len(free)
            free.append(DSP48E1.chain // 2)
        free[place] -= tiles
    return len(free)


def _kind(flip_flop):
    """Return ``(falling edge, asynchronous reset)``, which a slice has for all its flip-flops."""
    return flip_flop.endswith("_1"), flip_flop.startswith(("FDC", "FDP"))
