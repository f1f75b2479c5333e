"""Readers and writers that every package needs; nothing of the accelerator."""
