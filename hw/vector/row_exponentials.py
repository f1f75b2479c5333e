"""From row maxima to buffered exponentials and their sums, for the units with a table of them."""

from amaranth import Cat, Const, Mux, Signal

from systola.hw.contract.numbers import NORMALISED_PEAK
from systola.hw.parts.pipeline import Pipeline

__all__ = ["EXP_BITS", "LOOKUP", "add_up_rows", "write_exponentials"]

EXP_BITS = NORMALISED_PEAK.bit_length()
"""Bits of an exponential."""

LOOKUP = 3
"""Cycles from a beat's codes to its exponentials: address, table, and those of kept lanes."""


def write_exponentials(m, stored, rows, table, exponentials, queue, *, start, bits):
    """Turn the beats of a `RowMaximum` into exponentials in a buffer.

    Parameters
    ----------
    m : Module
        Where the logic goes.
    stored : View
        Of what is written into the buffer: ``e``, ``last`` and ``keep``.
    rows : stream interface
        Beats with their row's maximum.
    table : ByteTable
        Two bytes an entry.
    exponentials : SyncFIFOBuffered
        The buffer.
    queue : CreditQueue
        Of what the sums become; an entry is reserved for each row.
    start, bits : int
        What sums begin with, and their bits.

    Returns
    -------
    total, ended : Signal
        A row's sum, and the cycle in which it is one.
    """
    take, space, beat = Signal(), Signal(), rows.p
    # Early, as the level is a sum: beats of this cycle and the lookup's are not in it yet.
    m.d.sync += space.eq(exponentials.w_level < exponentials.depth - LOOKUP - 1)
    m.d.comb += [
        rows.ready.eq(space & (queue.room | ~beat.last)),
        take.eq(rows.valid & rows.ready), queue.take.eq(take & beat.last), table.en.eq(1),
    ]
    pipe = Pipeline(m)
    for k in range(table.lanes):
        m.d.comb += table.addr[k].eq(pipe.reg((beat.max - beat.x[k])[:8]))
        keep, top = pipe.delay(beat.keep[k], 2) if k else Const(1), table.data[k][-1]
        below = table.data[k][:-1] & (keep & ~top).replicate(EXP_BITS - 1)
        m.d.comb += stored.e[k].eq(pipe.reg(Cat(below, top & keep)))
    valid = pipe.delay(take, LOOKUP, reset_less=False)
    last = pipe.delay(beat.last, LOOKUP)
    m.d.comb += [exponentials.w_en.eq(valid), stored.last.eq(last),
                 stored.keep.eq(pipe.delay(beat.keep[1:], LOOKUP))]
    return add_up_rows(m, pipe, stored.e, valid, last, start=start, bits=bits)


def add_up_rows(m, pipe, values, valid, last, *, start, bits):
    """Return the sum of each row's beats from `start` on, and the cycle in which it is one."""
    beat, cycles = pipe.add_up(list(values))
    step = Signal()
    m.d.comb += step.eq(pipe.delay(valid, cycles, reset_less=False) & pipe.advance)
    last = pipe.delay(last, cycles)
    total, first, ended = Signal(bits, reset_less=True), Signal(init=1), Signal()
    with m.If(step):
        m.d.sync += [total.eq(Mux(first, start, total) + beat), first.eq(last)]
    m.d.sync += ended.eq(step & last)
    return total, ended
