"""Cycles that the hardware's pipelines take: fixed delays in one table, and formulas."""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from systola.hw.contract.checks import When, check_steps
from systola.hw.contract.isa import Flag, Opcode
from systola.hw.contract.latency import CHECK_LATENCY, edge_cycles, requant_latency, root_cycles
from systola.hw.contract.numbers import CODE_BITS, epsilon_bits
from systola.sw_driver.compiler.contention import QUIET

__all__ = ["COSTS", "Costs", "check_cycles", "requant_times", "vector_cycles"]


@dataclass(frozen=True)
class Costs:
    """Fixed delays in cycles; what is counted is said beside each."""

    start: int = 4              # from the start command to the first beat, a host that waits for it
    decode: int = 3             # per instruction, with the stream stopped
    check: int = CHECK_LATENCY  # the same, for all but BEGIN and END, beyond `check_cycles`
    queue: int = 3              # from issue to the engine's gate
    queue_free: int = 1         # from an engine's start to room in its queue
    token: int = 3              # from done to the start of the engine that waits for it
    fence: int = 2              # from done to the start of the fenced instruction
    data_latency: int = 2       # from a beat's arrival to the LOAD engine
    write: int = 5              # from the start of LOAD until it takes its first word, which is
                                # written a cycle later
    load_done: int = 1          # from the last word of a LOAD operation to done
    read_done: int = 2          # the same of FETCH and STORE
    copy_done: int = 1          # the same of COPY beyond that, whose last word is still written
    read_latency: int = 11     # from start to the first word of FETCH and STORE
    transpose: int = 5          # from a block's last row to its first column
    settle: int = 5             # between the column tiles of a transposed FETCH
    fifo: int = 3               # from a word of weights to the tile loader, through the FIFO
    fifo_free: int = 3          # from a column's load to room for a word
    first_word: int = 7         # from a MATMUL's start to its first word at the array
    matmul_gap: int = 1         # between the activations of two MATMULs
    run_ahead: int = 5          # requests go out before their words enter the array
    buffer_free: int = 1        # from the end of a drain to the next tile in that buffer
    tile_gap: int = 1           # from the last group of a tile to the first of the next, one more
                                # if a group takes one cycle
    wide_gap: int = 7           # from done of a 16-bit or residual MATMUL to the next group
    residual_gap: int = 10      # the same if the next one has a residual
    wide_next: int = 2          # from its done to the start of the next but one
    write_latency: int = 3      # from a group's codes to done, one more if 16 bits wide
    shiftmax: int = 39          # VECTOR: latencies of a row beyond its beats and writes, and here
                                # beyond the product, four bits of the mantissa a cycle
    shiftmax_row: int = 17      # least cycles a row, its division
    deferred: int = 14          # the same of deferred Shiftmax, up to its last factor
    deferred_row: int = 1       # beyond a cycle for two bits of the row factor
    normalised: int = 20        # of normalised Shiftmax, up to the last write
    normalised_factor: int = 0  # the same, from its last beat to its factor, beyond the division
    normalised_row: int = 1     # beyond a cycle for three bits of the row factor
    shiftgelu: int = 51
    table: int = 13
    layernorm: int = 71         # beyond the root
    layernorm_row: int = 35     # least cycles a row, its mean
    fine_norm: int = 77         # the same of normalised layer norms
    fine_norm_row: int = 15
    compared_norm: int = 52     # of compared ones, beyond the edges and the bits of a code
    mean: int = 20
    finish: int = 3             # from the last completion to done


COSTS = Costs()


def requant_times(fields, config):
    """Return the cycles that a MATMUL's group takes in the requantizer, and until it is out."""
    long = fields["out_bits"] > 8 or (bool(fields["flags"] & Flag.ROW_SCALE)
                                      and config.long_factors)
    residual = bool(fields["flags"] & Flag.RESIDUAL)
    return config.requant_cycles(long=long, residual=residual), requant_latency(
        config.mult_bits, config.code_mult_bits, long=long, residual=residual)


def vector_cycles(opcode, fields, config, costs, beside=QUIET):
    """Return the cycles of a VECTOR operation from its start to done."""
    columns = (fields["words"] - 1) * config.rows + fields["lanes_last"]
    if opcode is Opcode.MEAN:
        return _mean_cycles(columns, fields, config, costs)
    norm = opcode is Opcode.LAYERNORM
    scaled = (norm and not config.compared_norm) or (opcode is Opcode.SHIFTGELU
                                                     and config.gelu == "published")
    lanes = config.norm_lanes if opcode is Opcode.LAYERNORM else config.vector_lanes
    words = _beats(columns, lanes, config)
    beats, rows = sum(words), fields["rows"]
    planes = (config.attention_digits if opcode is Opcode.SHIFTMAX
              else 1 + (fields["out_bits"] > CODE_BITS))
    slots = config.requant_cycles(long=False) if scaled else 1
    out_lanes = config.norm_lanes if scaled else lanes
    written = [slots * count for count in _beats(columns, out_lanes, config)]
    if opcode is Opcode.SHIFTMAX and config.levels:  # two words in one
        written = [sum(written[k:k + 2]) for k in range(0, len(written), 2)]
    every, last, waited = _writes(written, planes)
    division = {"published": costs.shiftmax_row,
                "normalised": costs.normalised_row + -(-config.factor_bits // 3)}.get(
                    config.attention, costs.deferred_row + -(-config.factor_bits // 2))
    least = {Opcode.LAYERNORM: _least_norm_row(config, costs), Opcode.SHIFTGELU: beats + scaled,
             Opcode.SHIFTMAX: division}
    alone = max(beats, every, least[opcode])
    row = beside.row(alone, every, written, planes, fields["words"] * (1 + norm),
                     -(-columns // config.lanes) if norm and scaled else 0)
    last += int(row - alone)
    if norm:
        return _norm_cycles(rows, beats, row, config, costs) + last
    others = int((rows - 1) * row)
    levels = -(-(lanes - 1).bit_length() // 2)
    if opcode is Opcode.SHIFTMAX and config.deferred:  # two passes over a row
        return costs.deferred + levels + 2 * beats + others + division + int(row - alone)
    if opcode is Opcode.SHIFTMAX and config.attention == "normalised":  # a third pass: the shift
        left = last - planes - waited  # the last beat: its word waits until another is written
        ends = max(last, left + costs.normalised_factor + levels + division)
        return costs.normalised + levels + 2 * beats + others + ends
    if opcode is Opcode.SHIFTMAX:  # a third pass: the product
        product = -(-(config.x0_bits + 1) // 4)
        latency = costs.shiftmax + product + (lanes - 1).bit_length() + 2 * beats
        return latency + others + last
    if config.gelu == "published":
        return costs.shiftgelu + (out_lanes < lanes) + beats + others + last
    return costs.table + others + last


def _least_norm_row(config, costs):
    """Return the least cycles of a row of LAYERNORM."""
    if config.compared_norm:
        return max(costs.fine_norm_row, edge_cycles(config.act_bits))
    return costs.fine_norm_row if config.fine_norm else costs.layernorm_row


def _norm_cycles(rows, beats, every, config, costs):
    """Return the cycles of I-LayerNorm up to the last row's first beat."""
    lanes = config.norm_lanes
    fill = (lanes < config.vector_lanes) + -(-(lanes - 1).bit_length() // 2) + beats - 1
    if config.compared_norm:
        edges = edge_cycles(config.act_bits) + config.act_bits
        return costs.compared_norm + fill + edges + int((rows - 1) * every)
    if config.fine_norm:
        root = root_cycles(epsilon_bits(config.max_row) + 1)
        return costs.fine_norm + fill + root + int((rows - 1) * every)
    root, roots, began = _root_cycles(config), config.norm_roots, []
    for row in range(rows):
        after = began[-1] + every if row else 0
        began.append(max(after, began[-roots] + root if row >= roots else 0))
    return costs.layernorm + fill + root + int(began[-1])


def _mean_cycles(columns, fields, config, costs):
    """Return the cycles of MEAN: all rows but the last add up, that one leaves in elements."""
    slots, planes = config.requant_cycles(long=False), 1 + fields["wide"]
    row = sum(max(beats, planes) for beats in _beats(columns, config.vector_lanes, config))
    # Elements that take two cycles do so in pairs.
    ends = [end if slots == 1 else 2 * end - 1 - (end - 1) % 2 for end in (
        min(first + config.rows, columns) for first in range(0, columns, config.rows))]
    words = [end - start for start, end in pairwise([0, *ends])]
    _, last, _ = _writes(words, 1 + (fields["out_bits"] > 8))
    return costs.mean + fields["wide"] + 2 * slots + (fields["rows"] - 1) * row + last


def _beats(columns, lanes, config):
    """Return the beats of `lanes` elements of each word of a row."""
    return [-(-min(config.rows, columns - first) // lanes)
            for first in range(0, columns, config.rows)]


def _writes(words, planes):
    """Return the cycles per row of its writes, and those from a row's first beat to its last write.

    The third result is for how many of these the last word waits. `words` are the beats of each
    word of a row; a word is assembled while another is written, and its own writes begin a cycle
    after the other's.
    """
    time, free, rows, waits = 0, 0, [], []
    for _ in range(3):  # the third row has the rhythm of all that follow
        for beats in words:
            wait = max(free - time - beats, 0)
            time += beats + wait
            free = time + planes + 1
        rows.append(time)
        waits.append(wait)
    return rows[2] - rows[1], rows[0] + planes, waits[0]


def _root_cycles(config):
    """Return the cycles between two roots of I-LayerNorm from the same unit."""
    bits = (config.max_row << 30).bit_length()
    published = config.norm == "published"
    quotient = max(25 if published else 31, (bits + 1) // 2 + 1)
    return 10 * (-(-quotient // 2) + 1) + 2


def check_cycles(opcode, fields, config):
    """Return the cycles of the dispatcher's checks of an instruction with these `fields`.

    A step takes one for every started four bits of its factor, at least one; one whose condition
    does not hold takes one.
    """
    return sum(_step_cycles(step, fields) for step in _checks(config)[opcode])


_checks = cache(check_steps)
_HOLDS = {When.RESIDUAL: lambda fields: fields["flags"] & Flag.RESIDUAL,
          When.ROW_SCALE: lambda fields: fields["flags"] & Flag.ROW_SCALE,
          When.PER_CHANNEL: lambda fields: not fields["flags"] & Flag.BROADCAST,
          When.WIDE: lambda fields: fields["out_bits"] > 8,
          When.UNSIGNED: lambda fields: fields["flags"] & Flag.UNSIGNED}


def _step_cycles(step, fields):
    if step.when is not None and not _HOLDS[step.when](fields):
        return 1
    factor = fields[step.b] if isinstance(step.b, str) else step.b
    halved = step.halved is True or (bool(step.halved) and bool(_HOLDS[step.halved](fields)))
    return max(-(-(factor - step.less >> halved).bit_length() // 4), 1)
