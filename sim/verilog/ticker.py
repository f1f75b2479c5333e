"""A clock inside a simulation: many cycles for every change of a signal that the bench drives.

An edge of a signal that comes from outside costs a simulator as much as ten cycles of a small
accelerator do.
"""

__all__ = ["CYCLES", "TICKER"]

CYCLES = 40
"""Cycles for a change of ``tick``; the simulator takes up to 100 changes for a loop otherwise."""

TICKER = f"""
  reg clk, seen;
  reg [5:0] cycle;
  initial begin clk = 0; seen = 0; cycle = 0; end
  always @(posedge tick, negedge tick, posedge clk, negedge clk) begin
    if (clk) clk <= 0;
    else if (tick != seen) begin
      clk <= 1;
      cycle <= cycle == {CYCLES} - 1 ? 0 : cycle + 1;
      if (cycle == {CYCLES} - 1) seen <= tick;
    end
  end
"""
"""Verilog that makes ``clk`` out of ``tick``; what changes with ``tick`` holds for all of
its cycles."""
