"""Run an integer network by the fastest means there are: the kernel, or the models in numpy.

Both give the same numbers. What is missing for the kernel, a compiler for example, costs time only.
"""

import os
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from systola.model.graph import integer_forward
from systola.model.graph.integer_forward import check_inputs, check_kept
from systola.model.kernel.compile import FORMS, KernelError, load
from systola.model.kernel.program import Program

__all__ = ["ENGINES", "check_engine", "engine_report", "forward"]

ENGINES = "auto", *FORMS, "numpy"
"""What computes: the kernel where there is one, a form of the kernel, or the models."""

_programs = weakref.WeakKeyDictionary()


def forward(graph, inputs, *, keep=None, engine="auto", threads=None):
    """Run an integer network and return its tensors by name, as `integer_forward.forward` does.

    Parameters
    ----------
    graph, inputs, keep
        As there. The arrays of a network that has run must not be changed.
    engine : str
        One of `ENGINES`.
    threads : int, optional
        Images computed at the same time, by default as many as there are processors.

    Raises
    ------
    ValueError
        As there; or if `engine` is a form of the kernel and there is none (`KernelError`).
    """
    library = _library(engine)[0]
    if library is None:
        return integer_forward.forward(graph, inputs, keep=keep)
    inputs, batch = check_inputs(graph, inputs)
    keep = check_kept(graph, keep)
    program = _program(graph, library)
    plan, count = program.plan(graph, keep), len(next(iter(inputs.values())))
    results = {name: np.empty((count, *graph.tensors[name].shape), np.int64) for name in keep}

    def run(index):
        plan.run(graph, {name: value[index] for name, value in inputs.items()}, results, index)

    threads = min(_processors() if threads is None else threads, count)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(count)))
    else:
        for index in range(count):
            run(index)
    return results if batch else {name: value[0] for name, value in results.items()}


def check_engine(engine):
    """Raise ``ValueError`` unless `engine` is one of `ENGINES`."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be {' or '.join(map(repr, ENGINES))}, not {engine!r}")


def engine_report(graph, engine="auto"):
    """Return what `forward` computes a network with, as plain data.

    Returns
    -------
    dict
        ``engine`` (``c`` or ``numpy``); of the kernel its ``compiler`` and ``instructions``, and
        ``numpy_nodes``, the nodes left to the models with the reason; of numpy, where it was not
        asked for, the ``reason``.
    """
    library, reason = _library(engine)
    if library is None:
        return {"engine": "numpy", **({"reason": reason} if reason else {})}
    return {"engine": "c", **library.about, "numpy_nodes": dict(_program(graph, library).left)}


def _library(engine):
    """Return the kernel, or None and why."""
    check_engine(engine)
    if engine == "numpy":
        return None, None
    try:
        return load("c" if engine == "auto" else engine), None
    except KernelError as error:
        if engine != "auto":
            raise KernelError(f"engine {engine!r} must have a compiled kernel, and there is none: "
                              f"{error}") from None
        return None, str(error)


def _program(graph, library):
    programs = _programs.setdefault(graph, {})
    if library not in programs:
        programs[library] = Program(graph, library)
    return programs[library]


def _processors():
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
