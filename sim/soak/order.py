"""What a program touches, and whether its tokens leave only one possible result."""

from dataclasses import dataclass, field

from systola.hw.contract.isa import (
    FORMATS,
    INSTRUCTION_BYTES,
    WEIGHT_STREAMS,
    Engine,
    Error,
    Memory,
    Opcode,
    Region,
    Span,
)
from systola.sim.machine.refusals import (
    check_word,
    entries,
    extent,
    fetch_words,
    operands,
    weight_words,
)

__all__ = ["Scan", "Step", "is_determined", "leftovers", "scan", "vague_words"]


@dataclass(kw_only=True)
class Step:
    """An accepted instruction; memory sets are integers with a bit per place, see `_places`."""

    opcode: Opcode
    wait: int
    signal: int
    fields: dict
    reads: int = 0
    writes: int = 0
    vague: int = 0  # of the writes, words with lanes beyond a row, which hold anything
    clash: bool = False  # its own reads and writes, or two of its writes, meet

    @property
    def engine(self):
        """The engine that runs it, or None."""
        return FORMATS[self.opcode].engine


@dataclass(kw_only=True)
class Scan:
    """What the dispatcher makes of a stream if nothing blocks.

    ``cause`` of the refusal of instruction ``index``, or NONE if that is END (``complete``) or lies
    behind the end of the stream. ``beats`` up to there; ``words``: first 32 bits of each.
    """

    steps: list = field(default_factory=list)
    cause: Error = Error.NONE
    index: int = 0
    complete: bool = False
    beats: int = 0
    words: list = field(default_factory=list)


def scan(stream, config):
    """Return the `Scan` of a stream."""
    found, beat = Scan(), config.bus_bytes
    size, at = -(-INSTRUCTION_BYTES // beat) * beat, 0
    while at + size <= len(stream):
        found.index = len(found.words)
        found.words.append(int.from_bytes(stream[at:at + 4], "little"))
        found.cause, decoded = check_word(stream[at:at + INSTRUCTION_BYTES], found.index, config)
        if found.cause is not Error.NONE:
            return found
        opcode, wait, signal, fields = decoded
        step = Step(opcode=opcode, wait=wait, signal=signal, fields=fields)
        _places(step, config)
        found.steps.append(step)
        at += size
        if opcode is Opcode.END:
            found.complete, found.beats = True, at // beat
            return found
        at += fields.get("beats", 0) * beat
    found.index = len(found.words)
    return found


def _region_words(region, fields, config, first=0):
    """Return the words of a region (bits), in each row from word `first` on, and its accesses."""
    planes, rows, words = extent(region, fields, config)
    base, stride, plane = (fields.get(f"{region.prefix}{name}", 0)
                           for name in ("base", "stride", "plane"))
    bits, row = 0, (1 << words - first) - 1 << base + first
    for index in range(planes):
        for t in range(rows if stride else 1):
            bits |= row << index * plane + t * stride
    return bits, planes * rows * words


def _places(step, config):
    """Find what is read and written: scratchpad words, then parameter words, tables, factors."""
    opcode, fields = step.opcode, step.fields
    starts = {Memory.PARAMS: config.scratchpad_words}
    starts[Memory.TABLES] = starts[Memory.PARAMS] + config.param_depth
    starts[Memory.FACTORS] = starts[Memory.TABLES] + config.last_table + 1
    written = 0
    for region in operands(opcode, fields, config, Region):
        bits, accesses = _region_words(region, fields, config)
        if not region.writes:
            step.reads |= bits
            continue
        step.writes |= bits
        written += accesses
        if step.engine is Engine.VECTOR and fields["lanes_last"] < config.rows:
            last = extent(region, fields, config)[2] - 1
            step.vague, _ = _region_words(region, fields, config, last)
    # A LOAD writes in order, and the others write each entry of other memories once.
    step.clash = step.engine is not Engine.LOAD and (
        bool(step.reads & step.writes) or step.writes.bit_count() < written)
    for span in operands(opcode, fields, config, Span):
        first, count = entries(span, fields, config)
        bits = (1 << count) - 1 << starts[span.memory] + first
        if span.writes:
            step.writes |= bits
        elif not (opcode is Opcode.SHIFTGELU and span.memory is Memory.PARAMS
                  and config.gelu == "table"):  # checked all the same, but not read
            step.reads |= bits


def leftovers(steps, config):
    """Return whether a complete program leaves tokens or weights."""
    tokens = {}
    for step in steps:
        for other in Engine:
            if step.engine is None or other is step.engine:
                continue
            tokens[step.engine, other] = (tokens.get((step.engine, other), 0)
                                          + (step.signal >> other & 1))
            tokens[other, step.engine] = (tokens.get((other, step.engine), 0)
                                          - (step.wait >> other & 1))
    weights = sum(_streamed_words(step, config) if step.opcode in WEIGHT_STREAMS
                  else fetch_words(step.fields, config) if step.opcode is Opcode.FETCH
                  else -weight_words(step.fields, config) if step.opcode is Opcode.MATMUL else 0
                  for step in steps)
    return any(tokens.values()) or weights != 0


def _streamed_words(step, config):
    """Return the weight FIFO words that come from the stream."""
    beats = step.fields["beats"]
    return 2 * max(beats - config.codebook_beats, 0) if step.opcode is Opcode.LOAD_CODES else beats


def vague_words(steps):
    """Return the words (bits) with lanes that may hold anything at the end."""
    vague = 0
    for step in steps:
        vague |= step.vague
    return vague


def is_determined(steps):
    """Return whether all accesses of different instructions that meet are ordered.

    An access before which another one must have happened waits for it by a chain of tokens, fences
    and engines' own order. Then every schedule gives the same result.
    """
    vague = vague_words(steps)
    if any(step.clash or step.reads & vague for step in steps):
        return False
    before = _complete_before(steps)
    for late, step in enumerate(steps):
        touched = step.reads | step.writes
        for early, other in enumerate(steps[:late]):
            if not (step.writes & (other.reads | other.writes) or touched & other.writes):
                continue
            # A MATMUL reads all it needs, and writes, before a later one writes.
            matmuls = step.opcode is other.opcode is Opcode.MATMUL
            if matmuls and not step.reads & other.writes:
                continue
            if not (before[late] >> early & 1 or before[early] >> late & 1):
                return False
    return True


def _complete_before(steps):
    """Return for each step the steps (bits) that are complete before it starts."""
    queues = {engine: [k for k, step in enumerate(steps) if step.engine is engine]
              for engine in Engine}
    direct = [0] * len(steps)  # complete before it starts
    after = [0] * len(steps)   # started before it starts
    for engine, own in queues.items():
        for place, k in enumerate(own):
            if place and engine is not Engine.MATRIX:
                direct[k] |= 1 << own[place - 1]
            elif place:
                after[k] |= 1 << own[place - 1]
                if steps[k].wait >> engine & 1:
                    direct[k] |= 1 << own[place - 1]
        for other, theirs in queues.items():
            if other is engine:
                continue
            givers = [k for k in theirs if steps[k].signal >> engine & 1]
            takers = [k for k in own if steps[k].wait >> other & 1]
            for giver, taker in zip(givers, takers, strict=False):
                # An engine completes in order.
                direct[taker] |= sum(1 << k for k in theirs if k <= giver)
    before = list(direct)
    changed = True
    while changed:
        changed = False
        for k in range(len(steps)):
            total, rest = before[k], direct[k] | after[k]
            while rest:
                other = rest.bit_length() - 1
                rest ^= 1 << other
                total |= before[other]
                if direct[k] >> other & 1 and steps[other].engine is Engine.MATRIX:
                    total |= sum(1 << j for j in queues[Engine.MATRIX] if j <= other)
            if total != before[k]:
                before[k], changed = total, True
    return before
