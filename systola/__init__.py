"""An FPGA accelerator generator for integer-only Vision Transformers."""
