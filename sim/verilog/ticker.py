"""A clock inside a simulation: many cycles for every change of a signal that the bench drives.

An edge of a signal that comes from outside costs a simulator as much as ten cycles of a small
accelerator do.
"""

__all__ = ["CYCLES", "ticker"]

CYCLES = 40
"""Cycles for a change of the bench's signal; Verilator takes up to 100 changes for a loop."""

_TEMPLATE = """
  reg {clock}, seen;
  reg [5:0] cycle;
  initial begin {clock} = 0; seen = 0; cycle = 0; end
  always @(posedge {tick}, negedge {tick}, posedge {clock}, negedge {clock}) begin
    if ({clock}) {clock} <= 0;
    else if ({tick} != seen) begin
      {clock} <= {tick} | {fast};
      cycle <= {fast} & cycle != {cycles} - 1 ? cycle + 1 : 0;
      if (~{fast} | cycle == {cycles} - 1) seen <= {tick};
    end
  end
"""


def ticker(tick, clock, *, fast="1'b1"):
    """Return Verilog that declares `clock` and makes it out of the signal `tick`.

    While `fast` is 1, both changes of `tick` give `CYCLES` cycles: what changes with `tick` holds
    for all of them. Else a rising edge gives one, and what reads outputs at that edge sees them as
    they were before it, as if `tick` were the clock. `fast` may change at any time.
    """
    return _TEMPLATE.format(tick=tick, clock=clock, fast=fast, cycles=CYCLES)
