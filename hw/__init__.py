"""The accelerator in Amaranth: what is built, around what, and how Verilog comes out."""
