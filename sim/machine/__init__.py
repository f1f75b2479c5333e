"""The simulator of instructions: no Verilog."""
