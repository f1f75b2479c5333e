"""Digits on a Zynq, with PYNQ: the accelerator reads its program from the processor's memory.

On a computer: ``systola generate --config digits --player -o build/rtl``, a block design as in
docs/SOC.md (the accelerator `systola_0`, an AXI DMA `dma_0` with its stream-to-memory channel), and
``systola.compile(...)``'s program written to ``digits.program``. On the board, with that file, the
bitstream and ``pip install systola --no-deps``:

    python digits.py digits.bit digits.program codes.npy

`codes.npy` holds the inputs, ``(images, rows, channels)`` codes of 8 bits. Nothing here was run on
a board: tests/sw_driver/test_played.py runs the driver against a model of such a system, and
tests/sim/test_played.py the Verilog behind AXI4.
"""

import sys

import numpy as np

from systola.sw_driver.driver.played import PlayedAccelerator
from systola.sw_driver.program.image import Program


def main(bitstream, program, codes):
    """Classify the images in the file `codes`."""
    import pynq

    overlay = pynq.Overlay(bitstream)
    accelerator = PlayedAccelerator(overlay.systola_0.mmio, pynq.allocate,
                                    overlay.dma_0.recvchannel)
    accelerator.load(Program.read(program))
    for image in np.load(codes):
        print(int(accelerator.run({"patches": image})["logits"].argmax()))


if __name__ == "__main__":
    main(*sys.argv[1:])
