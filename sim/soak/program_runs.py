"""Hostile programs on simulated accelerators: which ones, and what is counted."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from systola.hw.contract.config import PRESETS, PUBLISHED, AcceleratorConfig
from systola.sim.soak.judge import EXAMPLES, Case, Soak
from systola.sim.soak.kinds import KINDS, hostile_stream
from systola.sim.soak.streams import short_program

__all__ = ["CONFIGS", "single_bits", "soak_programs"]

CONFIGS = {
    # Small memories: the whole scratchpad is read between any two programs. Three banks leave
    # addresses that no bank has, and so does a scratchpad of less than 2**16 words.
    "published": AcceleratorConfig(
        rows=3, cols=2, lanes=1, act_bits=5, weight_bits=4, token_depth=4, banks=3, bank_depth=16,
        weight_fifo=6, stream_fifo=5, queue_depth=3, param_depth=8, max_row=16, x0_bits=6,
        pooling="mean", masks=True, **PUBLISHED),
    "log2": AcceleratorConfig(
        rows=8, cols=4, lanes=2, vector_lanes=2, norm_lanes=1, pe_style="lut", token_depth=4,
        banks=3, bank_depth=16, weight_fifo=9, stream_fifo=8, queue_depth=2, param_depth=8,
        max_row=24, x0_bits=8, attention="half_16", code_mult_bits=12, pooling="mean",
        copies=True, norm_bits=16, masks=True),
    "tiny": PRESETS["tiny"],
}
_SHARES = {"published": 0.86, "log2": 0.11, "tiny": 0.03}
"""Of the programs: the smaller the accelerator, the quicker its simulation. Of 10,000 programs, the
first one gets every single bit of the short one."""

_BATCH = 250
"""Programs in a call of the simulation."""

_ONE_BIT = "one bit of a short program"

_STEP = 1009
"""Single bits are taken in this step, a prime, so that a few of them are spread over the stream."""


def single_bits(config, seed=0):
    """Return a case for every bit of a short program, with that bit flipped."""
    stream = short_program(np.random.default_rng([seed, config.hash % 2**32]), config)
    cases = []
    for bit in range(8 * len(stream)):
        flipped = bytearray(stream)
        flipped[bit // 8] ^= 1 << bit % 8
        cases.append(Case(f"bit {bit}", _ONE_BIT, bytes(flipped)))
    return cases


def _cases(config, name, count, seed):
    """Return `count` cases; every fourth flips another single bit, the others are of all kinds.

    Half of these have stalls.
    """
    flips, cases = single_bits(config, seed), []
    for number in range(count):
        if number % 4 == 3:
            cases.append(flips[number // 4 * _STEP % len(flips)])
            continue
        rng = np.random.default_rng([seed, config.hash % 2**32, number])
        kind = KINDS[(number - number // 4) % len(KINDS)]
        stalls = tuple(int(k) for k in rng.integers(0, 200, size=2)) if rng.integers(2) else (0, 0)
        cases.append(Case(f"{name} {number}", kind, hostile_stream(kind, rng, config), stalls))
    return cases


def soak_programs(count, seed=0, *, configs=None, progress=None, cluster=None):
    """Run `count` hostile programs, and return what was counted.

    Parameters
    ----------
    count, seed : int
        How many, and which.
    configs : dict of str to AcceleratorConfig, optional
        The accelerators; by default `CONFIGS`.
    progress : callable, optional
        Called as ``progress(done, total, text=...)``.
    cluster : systola.cluster.cluster.Cluster, optional
        Workers that share the programs; figures are those of one process.

    Returns
    -------
    dict
        ``programs``, ``hangs``, ``out_of_bounds``, ``wrong_results``, ``compared`` (with the model,
        bit by bit), ``stalled``, ``cycles``, ``silence`` (longest without an event), ``kinds`` and
        ``ended`` by name, ``examples`` of failures, and ``seconds``.
    """
    progress = progress or (lambda *args, **more: None)
    start, done = time.perf_counter(), 0
    soaks, parts = [], _parts(count, configs or CONFIGS)
    if cluster is not None:
        progress(0, count, text="running the programs")
        tasks = [(name, config, share, seed, first) for name, (config, share) in parts.items()
                 for first in range(0, share, _BATCH)]
        soaks = cluster.map(_soak_batch, None, tasks, done=lambda done: progress(
            min(done * _BATCH, count), count, text="running the programs"))
        return _report([_Counted(*part) for part in soaks], time.perf_counter() - start)
    for name, (config, share) in parts.items():
        progress(done, count, text=f"compiling the simulation: {name}")
        with Soak(config) as soak, ThreadPoolExecutor(1) as pool:
            cases, waiting = _cases(config, name, share, seed), []
            for first in range(0, share, _BATCH):
                batch = cases[first:first + _BATCH]
                waiting.append((batch, pool.submit(soak.simulate, batch)))
            progress(done, count, text=f"running: {name}")
            for batch, future in waiting:
                soak.judge(batch, future.result())
                done += len(batch)
                progress(done, count, text=f"running: {name}")
        soaks.append(soak)
    return _report(soaks, time.perf_counter() - start)


@dataclass
class _Counted:
    """What a worker counted, as of `Soak`."""

    counts: Counter
    kinds: Counter
    ended: Counter
    silence: int
    examples: list


def _soak_batch(shared, name, config, share, seed, first):
    """Run the programs from `first` on that one call of the simulation takes, on a worker."""
    with Soak(config) as soak:
        batch = _cases(config, name, share, seed)[first:first + _BATCH]
        soak.judge(batch, soak.simulate(batch))
    return soak.counts, soak.kinds, soak.ended, soak.silence, soak.examples


def _parts(count, configs):
    """Return which configuration gets how many of `count` programs."""
    shares = [_SHARES.get(name, 1) for name in configs]
    parts = [int(count * share / sum(shares)) for share in shares]
    parts[0] += count - sum(parts)
    return {name: (config, part)
            for (name, config), part in zip(configs.items(), parts, strict=True) if part}


def _report(soaks, seconds):
    counts, kinds, ended = Counter(), Counter(), Counter()
    for soak in soaks:
        counts += soak.counts
        kinds += soak.kinds
        ended += soak.ended
    names = "programs", "hangs", "out_of_bounds", "wrong_results", "compared", "stalled", "cycles"
    return {**{name: counts[name] for name in names},
            "silence": max(soak.silence for soak in soaks),
            "kinds": {kind: kinds[kind] for kind in (*KINDS, _ONE_BIT) if kinds[kind]},
            "ended": dict(ended.most_common()),
            "examples": [line for soak in soaks for line in soak.examples][:EXAMPLES],
            "seconds": round(seconds, 1)}
