"""Codes of log2 attention back to exponentials, where they are added up and where they enter."""

from amaranth import Cat, Const, Mux

from systola.hw.parts.pipeline import node

__all__ = ["exponential"]


def exponential(m, levels, code):
    """Return the 8 bits of ``levels[code]``; codes beyond them are that of the last one.

    A table in look-up tables of `code`'s bits, whose number is the scheme's alone.

    Parameters
    ----------
    m : Module
        Where the code becomes a signal.
    levels : sequence of int
        One of `systola.hw.contract.numbers.LEVELS`.
    code : Value
        Its `LEVEL_BITS` bits.
    """
    code = node(m, code)
    count = 1 << len(code)
    entries = [levels[min(index, len(levels) - 1)] for index in range(count)]
    bits = []
    for bit in range(8):
        column = [Const(entry >> bit & 1, 1) for entry in entries]
        for select in code:
            column = [Mux(select, high, low)
                      for low, high in zip(column[::2], column[1::2], strict=True)]
        bits.append(column[0])
    return Cat(bits)
