"""Verilog compiled and run; ports into arrays."""
