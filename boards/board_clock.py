"""The clock and reset of a design on a board."""

from amaranth import ClockDomain, ClockSignal, Instance, Signal
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer

from systola.boards.pll import pll_instance

__all__ = ["add_clock"]


def add_clock(m, platform, board, plan, others=()):
    """Add domain ``sync`` of `board`'s PLL to `m`, as `plan` says; return what holds it in reset.

    Reset is held while the PLL has no lock or the button is pressed, and released synchronously.
    `others` are as of `pll_instance`.
    """
    m.domains.sync = ClockDomain()
    m.submodules.clock_pin = source = io.Buffer("i", platform.request(board.source[0], dir="-"))
    m.submodules.reset_pin = button = io.Buffer("i", platform.request(*board.reset, dir="-"))
    output, feedback, locked, hold = Signal(), Signal(), Signal(), Signal()
    m.submodules.pll = pll_instance(board.family, plan, source=source.i, output=output,
                                    feedback=feedback, locked=locked, others=others)
    if board.family == "xc7":
        m.submodules.clock_buffer = Instance("BUFG", i_I=output, o_O=ClockSignal())
    else:  # nextpnr promotes the net
        m.d.comb += ClockSignal().eq(output)
    m.d.comb += hold.eq(~locked | button.i)
    m.submodules.reset = ResetSynchronizer(hold)
    return hold
