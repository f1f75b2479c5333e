"""What both sides agree on, as data: configuration, instructions, registers, frames, packing."""
