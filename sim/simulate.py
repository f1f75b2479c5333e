"""Run an integer model on the simulated accelerator and compare it with the models."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from systola.hw.accelerator import Accelerator
from systola.hw.generate import TOP
from systola.sim.host import HOST, host_verilog
from systola.sim.runner import Session, build_text, cache_dir, cached_verilog
from systola.sim.vit import forward, tensor_names
from systola.sw_driver.compiler import compile_model

__all__ = ["Simulation", "build_accelerator", "simulate"]

_SLACK = 20
"""Simulated cycles that a run may take, in predicted ones, before it counts as hung."""


@dataclass(kw_only=True)
class Simulation:
    """What came out of `simulate`.

    Attributes
    ----------
    images, tensors_compared, elements_compared : int
        How much was compared: every stored tensor of every image.
    mismatches : int
        Elements that differ from the models.
    differing : dict of str to int
        Those by tensor, ``image 0 blocks.0.qkv`` for example.
    cycles, cycles_predicted : int
        From start to done for one image (the longest), measured and as the compiler counts them.
    utilisation : float
        Share of the array's multiply-accumulates in those cycles that the model needed.
    cycles_per_second : float
        Speed of the simulation.
    counters : dict
        The accelerator's performance counters for that image.
    logits : int64 array (images, classes)
        From the accelerator.
    tensors : list of dict
        By image, every stored tensor, from the accelerator.
    seconds : dict of str to float
        Wall time by step.
    """

    images: int
    tensors_compared: int = 0
    elements_compared: int = 0
    mismatches: int = 0
    differing: dict = field(default_factory=dict)
    cycles: int = 0
    cycles_predicted: int = 0
    utilisation: float = 0.0
    cycles_per_second: float = 0.0
    counters: dict = field(default_factory=dict)
    logits: np.ndarray | None = None
    tensors: list = field(default_factory=list)
    seconds: dict = field(default_factory=dict)

    def report(self):
        """Return the figures as plain data."""
        names = ("images", "mismatches", "tensors_compared", "elements_compared", "differing",
                 "cycles", "cycles_predicted", "utilisation", "cycles_per_second", "counters",
                 "seconds")
        return {**{name: getattr(self, name) for name in names}, "logits": self.logits.tolist()}


def build_accelerator(config, *, simulator="verilator", optimize="-O1"):
    """Compile the accelerator of `config` for simulation."""
    path = cached_verilog(lambda: Accelerator(config, trace=True), name=TOP,
                          key=[config.to_dict(), "trace"])
    text = path.read_text() + host_verilog(config, TOP)
    return build_text(text, top=HOST, simulator=simulator, optimize=optimize)


def simulate(model, config, codes, *, trace=True, untraced=True, seed=None, stall=0.5,
             streams=None, simulator="verilator", optimize="-O1", progress=None):
    """Run `model` on the simulated accelerator of `config`.

    Parameters
    ----------
    model : IntegerVit
        The network.
    config : AcceleratorConfig
        The accelerator.
    codes : int array (images, T-1, P)
        Patch codes.
    trace : bool
        Run a program that stores every intermediate tensor, and compare them all.
    untraced : bool
        Run the program that stores the logits only, the one that cycles are measured on.
    seed, stall : int, float
        With a seed, both streams stall at random in a share `stall` of the cycles; cycles then
        mean nothing.
    streams : str, optional
        What drives the streams: ``file`` (the simulation itself; default), ``python`` (default
        with a seed) or ``cocotbext``.
    simulator, optimize : str
        See `systola.sim.runner.build_component`.
    progress : callable, optional
        Called as ``progress(done, total, text=...)``.

    Raises
    ------
    CompileError
        If the model does not fit the accelerator.
    SimulationError
        If the simulation cannot be compiled, hangs, or the accelerator reports an error.
    """
    progress = progress or (lambda *args, **more: None)
    streams = streams or ("file" if seed is None else "python")
    if not trace and not untraced:
        raise ValueError("trace or untraced must be true, not both false")
    programs = [compile_model(model, config, trace=traced)
                for traced, wanted in ((True, trace), (False, untraced)) if wanted]
    expected = forward(model, codes)
    result, start = Simulation(images=len(codes)), time.perf_counter()
    progress(0, None, text="compiling the simulation")
    built = build_accelerator(config, simulator=simulator, optimize=optimize)
    result.seconds["compile"] = time.perf_counter() - start
    runs = []
    with TemporaryDirectory(prefix="program-", dir=cache_dir()) as folder, Session(
            built, "systola.sim.bench_accelerator") as session:
        for index, program in enumerate(programs):
            path = Path(folder, f"{index}.bin")
            program.write(path)
            params = {"program": str(path), "seed": seed, "stall": stall, "streams": streams,
                      "patience": _SLACK * program.predicted["cycles"] + 100_000}
            for image in range(len(codes)):
                progress(len(runs), len(programs) * len(codes),
                         text=f"simulating image {image + 1} of {len(codes)}"
                         + (", storing every tensor" if len(program.frames) > 1 else ""))
                figures, tensors = session.run(params, {"codes": codes[image]})
                figures["trace"] = tensors.pop("trace", None)
                runs.append((program, image, figures, tensors))
    _gather(result, model, runs, expected)
    return result


def _gather(result, model, runs, expected):
    """Compare all tensors of all runs, and collect the figures."""
    kept = [{} for _ in range(result.images)]
    for program, image, figures, tensors in runs:
        for name, got in tensors.items():
            result.tensors_compared += 1
            result.elements_compared += got.size
            wrong = int(np.sum(got != expected[name][image]))
            if wrong:
                result.mismatches += wrong
                result.differing[f"image {image} {name}"] = wrong
        kept[image] |= tensors
        cycles = figures["counters"]["cycles"]
        if program is runs[-1][0] and cycles >= result.cycles:
            config = program.config
            result.cycles, result.counters = cycles, figures["counters"]
            result.cycles_predicted = program.predicted["cycles"]
            result.utilisation = program.macs / (cycles * config.rows * config.cols)
    result.tensors = [{name: tensors[name] for name in tensor_names(model) if name in tensors}
                      for tensors in kept]
    result.logits = np.stack([tensors["logits"] for tensors in kept])
    seconds = sum(figures["seconds"] for _, _, figures, _ in runs)
    result.seconds["simulate"] = seconds
    result.cycles_per_second = sum(figures["simulated"] for _, _, figures, _ in runs) / seconds
