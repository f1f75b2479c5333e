"""Order and dependency tokens of a sequence of placed operations.

Engines run in order, so an operation that needs several earlier ones of an engine needs only the
last of them, and what an engine has once waited for stays true. A vector clock per operation
(the newest operation of each engine known to be complete) therefore decides which waits are
needed: at most one token from each other engine, each taken by exactly one operation.
"""

import numpy as np

from systola.hw.contract.isa import Engine, Opcode
from systola.sw_driver.compiler.operation import addresses_of

__all__ = ["assign_tokens", "prefetch_params"]

_NEVER = -1


def prefetch_params(ops, distance):
    """Return `ops` with every LOAD_PARAMS moved before `distance` more MATMULs.

    A move never passes another LOAD_PARAMS, nor parts a MATMUL from what feeds it. One that waits
    for others (`after`) leaves a MATMUL between them and itself.
    """
    out = []
    for op in ops:
        position, place, passed = len(out), len(out), 0
        while (op.opcode is Opcode.LOAD_PARAMS and position and passed < distance
               and out[position - 1].opcode is not Opcode.LOAD_PARAMS):
            position -= 1
            if out[position].engine is not Engine.LOAD:
                if op.after and {out[position], _last_matmul(out[:position])} & {None, *op.after}:
                    break
                place, passed = position, passed + (out[position].engine is Engine.MATRIX)
        out.insert(place, op)
    return out


def _last_matmul(ops):
    return next((op for op in reversed(ops) if op.engine is Engine.MATRIX), None)


class _Accesses:
    """The last operation of each engine that read and that wrote each word of a memory."""

    def __init__(self, words):
        self.read = np.full((len(Engine), words), _NEVER)
        self.written = np.full((len(Engine), words), _NEVER)

    def needed(self, reads, writes):
        """Return per engine the last operation that must be complete before these accesses."""
        need = np.full(len(Engine), _NEVER)
        for history, addresses in ((self.written, reads), (self.written, writes),
                                   (self.read, writes)):
            if len(addresses):
                need = np.maximum(need, history[:, addresses].max(axis=1))
        return need

    def written_by(self, engine, addresses):
        """Return the last operation of `engine` that wrote one of `addresses`."""
        return self.written[engine, addresses].max() if len(addresses) else _NEVER

    def record(self, index, engine, reads, writes):
        """Note the accesses of operation `index`."""
        self.read[engine, reads] = index
        self.written[engine, writes] = index


def _footprints(op):
    """Return (reads, writes) as addresses in scratchpad, parameters, row factors and tables."""
    def used(reads, writes):
        return tuple(addresses_of([item for item in items if item is not None])
                     for items in (reads, writes))

    tables = np.array(op.tables_read, np.int64), np.array(
        [] if op.table_write is None else [op.table_write], np.int64)
    return (used(op.reads.values(), op.writes.values()), used([op.params], [op.loads]),
            used([op.takes], [op.gives]), tables)


def assign_tokens(ops, config):
    """Set ``wait`` and ``signal`` of every operation.

    Every operation then starts after all earlier ones whose results it reads or whose operands it
    overwrites. MATMULs write in order and read before they write, so only one that reads what
    another wrote waits for it. Raises ``AssertionError`` if a feeder would depend on its own
    MATMUL.
    """
    memories = [_Accesses(words) for words in (
        config.scratchpad_words, config.param_depth, config.factor_depth, config.last_table + 1)]
    started = [np.full(len(Engine), _NEVER) for _ in Engine]
    complete, index_of = [], {}
    matmul = None
    for index, op in enumerate(ops):
        op.wait = op.signal = 0
        index_of[op] = index
        engine, prints = op.engine, _footprints(op)
        need = np.full(len(Engine), _NEVER)
        fence = _NEVER
        for memory, (reads, writes) in zip(memories, prints, strict=True):
            need = np.maximum(need, memory.needed(reads, writes))
            fence = max(fence, memory.written_by(engine, reads))
        for other in op.after:
            need[other.engine] = max(need[other.engine], index_of[other])
        clock = _wait(ops, op, need, started[engine], complete)
        if engine is Engine.MATRIX and fence > clock[engine]:
            op.wait |= 1 << engine
            clock = np.maximum(clock, complete[matmul])
        started[engine] = clock.copy()
        clock[engine] = index
        if engine is not Engine.MATRIX:
            started[engine][engine] = index  # these engines complete each before the next
        complete.append(clock)
        if op.feeds:
            assert clock[Engine.MATRIX] < matmul, f"{op.name} waits for the MATMUL it feeds"
            complete[matmul] = np.maximum(complete[matmul], clock)
        elif engine is Engine.MATRIX:
            matmul = index
        for memory, (reads, writes) in zip(memories, prints, strict=True):
            memory.record(index, engine, reads, writes)


def _wait(ops, op, need, known, complete):
    """Set the waits of `op` and the signals they take; returns what is known at its start."""
    clock = known.copy()
    needed = {other: need[other] for other in Engine
              if other != op.engine and need[other] > known[other]}
    for other in list(needed):
        rest = [complete[last][other] for peer, last in needed.items() if peer != other]
        if rest and max(rest) >= needed[other]:
            del needed[other]
    for other, last in needed.items():
        ops[last].signal |= 1 << op.engine
        op.wait |= 1 << other
        clock = np.maximum(clock, complete[last])
    return clock
