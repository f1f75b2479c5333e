"""An accelerator with a player on a Zynq, from PYNQ."""
