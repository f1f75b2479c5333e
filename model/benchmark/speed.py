"""Images per processor second of a network: the integer model, and others on the same weights."""

import dataclasses
import importlib
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np

from systola.model.data.synthetic import MODELS, random_float_vit
from systola.model.graph import integer_forward
from systola.model.graph.float_forward import float_forward
from systola.model.kernel.engine import engine_report, forward
from systola.model.quantization.quantize import quantize
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["RUNNERS", "speed_report"]

RUNNERS = {"systola": "this integer model", "numpy": "its definition", "torch": "float PyTorch",
           "onnx_float": "float ONNX Runtime", "onnx_dynamic": "its int8, ranges of each run",
           "onnx_static": "its int8, ranges of calibration"}
"""What is measured, if it is installed."""

_CALIBRATION = 2
_SHORTEST = 0.25  # seconds
_FLOAT = "torch", "onnx_float"
_CLOSE = 1e-3
"""Error of a float network beside ours, of the largest logit, from which it is another one."""


def speed_report(name="deit_tiny", *, blocks=None, batches=(1, 8, 32), threads=(1, 2), rounds=3,
                 engine="auto", seed=0, progress=None, **settings):
    """Measure how many images a processor second the means of `RUNNERS` make.

    They take turns, several rounds of every batch, so that what else the machine does hits all; the
    round with the least processor time counts.

    Parameters
    ----------
    name, blocks, seed
        The network, random weights: as `systola.model.data.synthetic.random_named` takes them.
    batches, threads : sequence of int
        Images at once; threads that compute them.
    rounds : int
        Rounds of each.
    engine : str
        Of the integer model, see `systola.model.kernel.engine.forward`.
    progress : callable, optional
        Called as ``progress(done, total, text)``.
    **settings
        Of `systola.model.quantization.quantize.quantize`.

    Returns
    -------
    dict
        ``images_per_processor_second`` by runner and ``"BxT"`` (batch, threads), likewise
        ``images_per_second`` of time, ``ratios`` of the integer model to the others,
        ``memory_mbyte`` by batch, ``left_out`` runners with the reason, ``engine`` of
        `engine_report`.
    """
    graph, integer, inputs = _networks(name, blocks, seed, max(batches), settings)
    codes = {key: to_codes(value, integer.scales[key], integer.tensors[key].bits).astype(np.int8)
             for key, value in inputs.items()}
    report = {"model": name, "weights": "random", "seed": seed, "images": list(batches),
              "threads": list(threads), "settings": settings,
              "engine": engine_report(integer, engine), "left_out": {}}
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        makers = _makers(graph, integer, inputs, codes, engine, Path(folder), report["left_out"])
        runs = {(runner, count): make(count) for runner, make in makers.items()
                for count in threads if (runner, count > 1) != ("numpy", True)}
        cases = [(runner, batch, count) for batch in batches for runner, count in runs]
        for run in runs.values():
            run(1)  # what only a first call does
        for done, (runner, batch, count) in enumerate(cases * rounds):
            if progress:
                progress(done, rounds * len(cases), f"measuring: {runner}, batch {batch}")
            times.setdefault((runner, f"{batch}x{count}"), []).append(
                _seconds(runs[runner, count], batch))
    report |= _rates(times)
    report["memory_mbyte"] = {str(batch): _memory(integer, codes, batch, engine)
                              for batch in batches}
    return report


def _networks(name, blocks, seed, images, settings):
    """Return a float network, the integer one made of it, and inputs."""
    sizes = MODELS[name] if blocks is None else {**MODELS[name], "blocks": blocks}
    rng = np.random.default_rng(seed)
    graph = random_float_vit(rng, **sizes)
    node = graph.inputs[0]
    inputs = {node.name: rng.standard_normal((max(images, _CALIBRATION), node.rows, node.channels),
                                             dtype=np.float32)}
    ranges = {key: value[:_CALIBRATION] for key, value in inputs.items()}
    return graph, quantize(graph, ranges, **settings), inputs


def _makers(graph, integer, inputs, codes, engine, folder, left_out):
    """Return functions of threads that return functions of a batch, by runner."""
    output = integer.outputs[0]
    makers = {
        "systola": lambda threads: lambda batch: forward(
            integer, _first(codes, batch), keep=[output], engine=engine, threads=threads),
        "numpy": lambda threads: lambda batch: integer_forward.forward(
            integer, _first(codes, batch), keep=[output])}
    others = {"torch": ("torch_network", _torch), **dict.fromkeys(
        ("onnx_float", "onnx_dynamic", "onnx_static"), ("onnx_network", _onnx))}
    part = _first(inputs, 1)
    wanted = float_forward(graph, part)[graph.outputs[0]]
    for runner, (module, make) in others.items():
        try:
            found = importlib.import_module(f"systola.model.benchmark.{module}")
            makers[runner] = make(found, runner, graph, inputs, folder)
            _check(makers[runner](1), runner, part, wanted)
        except ModuleNotFoundError as error:
            left_out[runner] = f"{error.name} is not installed"
    return makers


def _torch(module, runner, graph, inputs, folder):
    def make(threads):
        run = module.torch_network(graph, threads)
        return lambda batch: run(_first(inputs, batch))

    return make


def _onnx(module, runner, graph, inputs, folder):
    plain, path = folder / "float.onnx", folder / f"{runner}.onnx"
    if not plain.exists():
        module.onnx_model(graph, plain)
    if runner == "onnx_float":
        path = plain
    else:
        module.quantized_onnx(plain, path, calibration=(
            _first(inputs, _CALIBRATION) if runner == "onnx_static" else None))

    def make(threads):
        run = module.onnx_network(path, threads)
        return lambda batch: run(_first(inputs, batch))

    return make


def _check(run, runner, part, wanted):
    """Raise ``ValueError`` unless a float runner computes the network that it shall."""
    error = np.abs(run(1) - wanted).max() / np.abs(wanted).max()
    if runner in _FLOAT and not error < _CLOSE:
        raise ValueError(f"{runner} must compute the same network, and is off by {error:.3f}")


def _first(inputs, count):
    return {name: value[:count] for name, value in inputs.items()}


def _seconds(run, batch):
    """Return the processor seconds of an image, and the time, over at least `_SHORTEST`."""
    calls, start, begun = 0, time.process_time(), time.perf_counter()
    while not calls or time.process_time() - start < _SHORTEST:
        run(batch)
        calls += 1
    images = calls * batch
    return (time.process_time() - start) / images, (time.perf_counter() - begun) / images


def _rates(times):
    """Return what the report says of the measured seconds of an image."""
    rates, wall, ratios = {}, {}, {}
    for (runner, case), rounds in times.items():
        rates.setdefault(runner, {})[case] = 1 / min(used for used, _ in rounds)
        wall.setdefault(runner, {})[case] = 1 / min(passed for _, passed in rounds)
        if runner != "systola":
            ratios.setdefault(runner, {})[case] = rates["systola"][case] / rates[runner][case]
    return {"images_per_processor_second": rates, "images_per_second": wall, "ratios": ratios}


def _memory(integer, codes, batch, engine):
    """Return the peak of what a first run of a batch takes, in Mbyte: weights, tensors, results."""
    fresh = dataclasses.replace(integer)
    tracemalloc.start()
    forward(fresh, _first(codes, batch), keep=[integer.outputs[0]], engine=engine, threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20
