"""Proofs of rules of the hardware, for all inputs."""
