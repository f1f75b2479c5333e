"""Cycles that the hardware's pipelines take, measured on the RTL, in one table."""

from dataclasses import dataclass

from systola.hw.isa import Opcode

__all__ = ["COSTS", "Costs", "vector_cycles"]


@dataclass(frozen=True)
class Costs:
    """Fixed delays in cycles; what is counted is said beside each."""

    decode: int = 1             # per instruction, with the stream stopped
    queue: int = 2              # from an instruction's last beat to its engine's gate
    queue_free: int = 1         # from an engine's start to room in its queue
    token: int = 2              # from done to the start of the engine that waits for it
    fence: int = 1              # from done to the start of the fenced instruction
    data_latency: int = 2       # from a beat's arrival to the LOAD engine
    load_done: int = 1          # from the last word of a LOAD operation to done
    read_latency: int = 4       # from start to the first scratchpad word at its consumer
    transpose_latency: int = 3  # from a block's last row to its first column
    fifo: int = 1               # from a push into the weight FIFO to the tile loader
    fifo_free: int = 2          # from a column's load to room in the FIFO
    first_word: int = 3         # from a MATMUL's start to its first word at the array
    matmul_gap: int = 1         # between the activations of two MATMULs
    run_ahead: int = 4          # requests go out before their words enter the array
    half_free: int = 1          # from the end of a drain to the next tile in that half
    array: int = 5              # a tile's last word to the first group, beyond R + C
    tile_gap: int = 2           # from the last group of a tile to the first of the next
    wide_gap: int = 5           # from done of a 16-bit or residual MATMUL to the next group
    residual_gap: int = 7       # the same if the next one has a residual
    wide_next: int = 2          # from its done to the start of the next but one
    write_latency: int = 11     # from the last group to done, one more if 16 bits wide
    vector_start: int = 8       # VECTOR: from start to the first beat at the unit, and its end
    vector_gap: int = 1         # from done to the next start
    shiftmax: int = 40          # latency of a row
    shiftmax_row: int = 9       # least cycles a row, its division
    shiftgelu: int = 40         # latency of a row
    layernorm: int = 180        # latency of a row
    layernorm_row: int = 150    # least cycles a row, its root
    finish: int = 4             # from the last completion to done


COSTS = Costs()


def vector_cycles(opcode, fields, config, costs):
    """Return the cycles of a VECTOR operation from its start to done."""
    columns = (fields["words"] - 1) * config.rows + fields["lanes_last"]
    beats = -(-columns // config.lanes)
    if opcode is Opcode.SHIFTMAX:
        row, latency = max(beats, costs.shiftmax_row), costs.shiftmax
    elif opcode is Opcode.LAYERNORM:
        row, latency = max(beats, costs.layernorm_row), costs.layernorm
    else:
        row, latency = beats + (config.gelu == "exact"), costs.shiftgelu
    return costs.vector_start + beats + latency + (fields["rows"] - 1) * row + beats
