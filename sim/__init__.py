"""Simulations of the accelerator, with and without Verilog, and proofs."""
