"""Arty S7-50 (Digilent): Spartan-7 XC7S50, 100 MHz oscillator, FT2232 serial port, four LEDs."""

from amaranth_boards.arty_s7 import ArtyS7_50Platform

from systola.boards.board import Board
from systola.boards.flows.spartan7 import Spartan7Flow
from systola.boards.pll import XC7_PLL

__all__ = ["BOARD", "ArtyS7Platform"]


class ArtyS7Platform(Spartan7Flow, ArtyS7_50Platform):
    """The board's pins with this project's flow; ``openFPGALoader -b arty_s7_50`` loads it."""


BOARD = Board(name="arty_s7_50", family="xc7", part="xc7s50csga324-1", config="arty_s7_50",
              clock_mhz=50.0, platform=ArtyS7Platform, source=("clk100", 100.0), pll=XC7_PLL,
              reset=("rst", 0), limits={"lut": 32600, "ff": 65200, "dsp": 120, "bram36": 75},
              presets={
                  "arty_s7_50": {"tool": "nextpnr-xilinx 0.8.2", "minutes": 100,
                                 "fmax_mhz": [59.38, 55.75, 50.16]},
                  "arty_s7_50_small": {"tool": "nextpnr-xilinx 0.8.2", "minutes": 10,
                                       "fmax_mhz": [82.29, 72.81, 85.54]}})
