"""Benches of cocotb, loaded by name inside the simulator."""
