"""Tables of docs/TIMING.md, from the data that the estimate uses."""

from systola.boards.synthesis.estimate import delays

__all__ = ["timing_tables"]

_TITLES = {
    "clock_to_output": "Clock to output", "through": "Through", "setup.ff": "Setup of a flip-flop",
    "setup.bram": "Setup of a block RAM", "setup.dsp": "Setup of a DSP slice",
    "setup.lutram": "Setup of a LUT memory", "setup.shift": "Setup of a shift register",
    "inside": "From register to register inside", "net": "A net",
}


def timing_tables():
    """Return the Markdown tables of ``delays.toml``: pin or kind, ns, and where it is from."""
    blocks = []
    for path, title in _TITLES.items():
        table = delays()
        for name in path.split("."):
            table = table[name]
        rows = [f"| {name or 'any other'} | {figure['ns']:.2f} | {figure['from']} |"
                for name, figure in table.items()]
        blocks.append("\n".join([f"| {title} | ns | from |", "|---|---|---|", *rows]))
    return "\n\n".join(blocks) + "\n"
