"""Run an integer network on the simulated accelerator and compare it with the models."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from systola.files.cache import cache_dir
from systola.hw.accelerator import Accelerator
from systola.hw.generate import TOP
from systola.model.graph.integer_forward import forward
from systola.sim.runs.simulated_memory import find_memory, resident_verilog
from systola.sim.runs.timeline import Timeline, read_timeline
from systola.sim.verilog.runner import Session, build_text, cached_verilog
from systola.sim.verilog.stream_files import HOST, host_verilog
from systola.sw_driver.compiler.compiler import batches, compile_network
from systola.sw_driver.program.directory import DIRECTORY_BYTES

__all__ = ["Simulation", "accelerator_verilog", "build_accelerator", "playing", "simulate"]

_SLACK = 20
"""Simulated cycles that a run may take, in predicted ones, before it counts as hung."""


@dataclass(kw_only=True)
class Simulation:
    """What came out of `simulate`.

    All figures are those of the run that took longest, of ``batch`` images, in the program that
    stores the results only.

    Attributes
    ----------
    images, tensors_compared, elements_compared : int
        How much was compared: every stored tensor of every image.
    batch : int
        Images that a run computes.
    mismatches : int
        Elements that differ from the models.
    differing : dict of str to int
        Those by tensor, ``image 0 blocks.0.qkv`` for example.
    cycles, cycles_predicted : int
        From start to done, measured and as the compiler counts them.
    window : (int, int)
        Cycles at which the first instruction that loads weights started, and the last one of
        MATRIX or VECTOR ended; start and done if the streams are not files.
    utilisation : float
        Multiply-accumulates that the model needs, in those that the array could have done in the
        window; of narrow ones it does two at a time.
    passes : int or None
        Cycles in which words enter the array if it never waits, as the compiler counts them.
    overhead : float or None
        Cycles of the window beyond the passes, in passes.
    counters : dict
        The accelerator's performance counters.
    timeline : Timeline or None
        What the engines did; not with `streams` other than files.
    bandwidth : list or None
        Bytes of weights by layer, and per cycle, as the compiler counts them.
    scratchpad : dict or None
        Words: the ``peak`` that is needed at once, ``used`` up to the last one, and those that
        softmax writes, ``attention`` of all heads and layers.
    memory : dict or None
        That the program was played from: ``name``, bytes of the ``program``, bytes a cycle that it
        took of them (``used``), that it would have taken of a memory as fast as the stream
        (``needed``, by the stalls of the stream), and that there are (``given``).
    logits : int64 array (images, classes), or None
        From the accelerator.
    tensors : list of dict
        By image, every stored tensor, from the accelerator.
    seconds : dict of str to float
        Wall time by step.
    cycles_per_second : float
        Simulated cycles in a second of processor time.
    """

    images: int
    batch: int = 1
    tensors_compared: int = 0
    elements_compared: int = 0
    mismatches: int = 0
    differing: dict = field(default_factory=dict)
    cycles: int = 0
    cycles_predicted: int = 0
    window: tuple = (0, 0)
    utilisation: float = 0.0
    passes: int | None = None
    overhead: float | None = None
    counters: dict = field(default_factory=dict)
    timeline: Timeline | None = None
    bandwidth: list | None = None
    scratchpad: dict | None = None
    memory: dict | None = None
    logits: np.ndarray | None = None
    tensors: list = field(default_factory=list)
    seconds: dict = field(default_factory=dict)
    cycles_per_second: float = 0.0

    def report(self):
        """Return the figures as plain data."""
        names = ("images", "batch", "mismatches", "tensors_compared", "elements_compared",
                 "differing", "cycles", "cycles_predicted", "window", "utilisation", "passes",
                 "overhead", "counters", "bandwidth", "scratchpad", "memory", "seconds",
                 "cycles_per_second")
        report = {name: getattr(self, name) for name in names}
        if self.timeline is not None:
            report["array_idle"] = {
                **self.timeline.idle(),
                "steady_state_softmax_wait": self.timeline.steady_softmax_wait()}
        if self.logits is not None:
            report["logits"] = self.logits.tolist()
        return report


def accelerator_verilog(config, *, simulator="verilator"):
    """Return the file with the Verilog of the accelerator of `config`, with its trace ports."""
    return cached_verilog(lambda: Accelerator(config, trace=True), name=TOP,
                          key=[config.to_dict(), "trace"], simulator=simulator)


def build_accelerator(config, *, simulator="verilator", optimize="-Os", memory=None, size=0):
    """Compile the accelerator of `config`, with what drives it in simulation.

    With one of ``simulated_memory.MEMORIES``, a player in front plays programs from its `size`
    beats.
    """
    if memory is None:
        path, inputs, model = accelerator_verilog(config, simulator=simulator), {}, ""
    else:
        path = resident_verilog(config, memory, size, simulator=simulator)
        inputs, model = {"loading": 1, "place": 32}, memory.model
    text = path.read_text() + host_verilog(config, TOP, inputs=inputs) + model
    return build_text(text, top=HOST, simulator=simulator, optimize=optimize)


def simulate(graph, config, inputs, *, batch=1, trace=True, untraced=True, seed=None, stall=0.5,
             streams=None, memory=None, simulator="verilator", optimize="-Os", cluster=None,
             progress=None):
    """Run a network on the simulated accelerator of `config`.

    Parameters
    ----------
    graph : Graph
        The integer network.
    config : AcceleratorConfig
        The accelerator.
    inputs : dict of str to int array
        Its inputs by name, (images, rows, channels).
    batch : int
        Images that one run of the program computes, at most all. The last run repeats the last
        image if there are not enough.
    trace : bool
        Run a program that stores every intermediate tensor, and compare them all.
    untraced : bool
        Run the program that stores the results only, the one that cycles are measured on. Both
        run at the same time, each in its own process.
    seed, stall : int, float
        With a seed, both streams stall at random in a share `stall` of the cycles; cycles then
        mean nothing.
    streams : str, optional
        What drives the streams: ``file`` (the simulation itself; default), ``python`` (default
        with a seed) or ``cocotbext``.
    memory : str, optional
        One of ``simulated_memory.MEMORIES``, from which programs are played; by default they are
        streamed.
    simulator, optimize : str
        See `systola.sim.verilog.runner.build_component`.
    cluster : systola.cluster.cluster.Cluster, optional
        Its workers share the runs of both programs, each from reset on; that changes no result.
    progress : callable, optional
        Called as ``progress(done, total, text=...)``.

    Raises
    ------
    CompileError
        If the network does not fit the accelerator.
    SimulationError
        If the simulation cannot be compiled, hangs, or the accelerator reports an error.
    """
    if not trace and not untraced:
        raise ValueError("trace or untraced must be true, not both false")
    images = len(next(iter(inputs.values())))
    if not 1 <= batch <= images:
        raise ValueError(f"batch must be from 1 to the {images} images there are, not {batch!r}")
    progress = progress or (lambda *args, **more: None)
    result, clock = Simulation(images=images, batch=batch), _Clock()
    progress(0, None, text="compiling the program")
    kind = None if memory is None else find_memory(memory)
    supply = kind and kind.supply(config)
    programs = [compile_network(graph, config, trace=traced, images=batch, supply=supply)
                for traced, wanted in ((True, trace), (False, untraced)) if wanted]
    result.seconds["program"] = clock.lap()
    progress(0, None, text="compiling the simulation")
    params = {"streams": streams or ("file" if seed is None else "python"), "seed": seed,
              "stall": stall}
    if memory is not None:
        if params["streams"] != "file":
            raise ValueError("memory must not be given with a seed or with streams that are no "
                             "file: nothing is streamed then")
        needed = max(len(program.stream) for program in programs) + DIRECTORY_BYTES
        params["memory_beats"] = kind.size(config, -(-needed // config.bus_bytes))
    build = {"config": config, "simulator": simulator, "optimize": optimize, "memory": memory,
             "size": params.get("memory_beats", 0)}
    built = _build(**build) if cluster is None else None
    result.seconds["compile"] = clock.lap()
    chosen = batches(images, batch)
    progress(0, None, text="simulating")
    with ThreadPoolExecutor(len(programs) + 1) as pool:
        models = pool.submit(forward, graph, inputs)
        if cluster is None:
            futures = [pool.submit(_run, built, program, (
                _part(inputs, run, batch) for run in chosen), params) for program in programs]
            found = [one for future in futures for one in future.result()]
        else:
            found = _shared_runs(cluster, build, programs, [
                _part(inputs, run, batch) for run in chosen], params, progress)
        expected = models.result()
    runs = [(program, run) for program in programs for run in chosen]
    runs = [(*run, *one) for run, one in zip(runs, found, strict=True)]
    result.seconds["simulate"] = clock.lap()
    progress(0, None, text="comparing")
    _gather(result, graph, runs, expected)
    if memory is not None:
        size, cycles = len(programs[-1].stream), result.cycles
        pace = supply.pace if supply else 1
        result.memory = {
            "name": memory, "program": size, "used": round(size / cycles, 3),
            "needed": round(size / (cycles - result.counters["stream_stall"]), 3),
            "given": round(config.bus_bytes / pace, 3)}
    result.seconds["compare"] = clock.lap()
    return result


class _Clock:
    """Wall time since the last look at it."""

    def __init__(self):
        self.start = time.perf_counter()

    def lap(self):
        """Return the seconds, rounded, and start anew."""
        start, self.start = self.start, time.perf_counter()
        return round(self.start - start, 3)


@contextmanager
def playing(program, built, bench):
    """Yield a session of `bench` and its parameters that tell the program and when it hangs."""
    with TemporaryDirectory(prefix="program-", dir=cache_dir()) as folder, Session(
            built, bench) as session:
        path = Path(folder, "program.bin")
        program.write(path)
        yield session, {"program": str(path),
                        "patience": _SLACK * program.predicted["cycles"] + 100_000}


def _build(*, memory, **options):
    """Compile the accelerator, whose memory is given by name, or take it from the cache."""
    return build_accelerator(memory=memory and find_memory(memory), **options)


def _part(inputs, chosen, batch):
    """Return the inputs of a run: `chosen` images, or a single one without their axis."""
    return {name: value[chosen] if batch > 1 else value[chosen[0]]
            for name, value in inputs.items()}


def _run(built, program, parts, params):
    """Run all `parts`, each the inputs of a run; return figures and tensors of each."""
    found = []
    with playing(program, built, "systola.sim.benches.accelerator") as (session, more):
        params = {**params, **more}
        for part in parts:
            figures, tensors = session.run(params, part)
            figures["trace"] = tensors.pop("trace", None)
            if program.images == 1:
                tensors = {name: value[None] for name, value in tensors.items()}
            found.append((figures, tensors))
    return found


def _shared_runs(cluster, build, programs, parts, params, progress):
    """Return what `_run` gives of all parts by every program, each by any worker."""
    tasks = [(index, part) for index in range(len(programs)) for part in parts]
    return cluster.map(_run_one, (build, programs, params), tasks, done=lambda done: progress(
        done, len(tasks), text=f"simulating: {done} of {len(tasks)} runs"))


def _run_one(shared, index, part):
    """Run one part on a worker, by one of the programs."""
    build, programs, params = shared
    return _run(_build(**build), programs[index], [part], params)[0]


def _gather(result, graph, runs, expected):
    """Compare all tensors of all runs, and collect the figures."""
    kept = [{} for _ in range(result.images)]
    longest = None
    for run in runs:
        program, chosen, figures, tensors = run
        for place, image in enumerate(chosen):
            if image in chosen[:place]:
                continue  # only fills the run
            for name, values in tensors.items():
                got = values[place]
                result.tensors_compared += 1
                result.elements_compared += got.size
                wrong = int(np.sum(got != expected[name][image]))
                if wrong:
                    result.mismatches += wrong
                    result.differing[f"image {image} {name}"] = wrong
                kept[image][name] = got
        cycles = figures["counters"]["cycles"]
        if program is runs[-1][0] and cycles >= result.cycles:
            longest, result.cycles = run, cycles
    _measure(result, *longest)
    result.tensors = [{node.name: tensors[node.name] for node in graph.nodes
                       if node.name in tensors} for tensors in kept]
    name = graph.outputs[0]
    if graph.tensors[name].rows == 1:
        result.logits = np.stack([tensors[name][0] for tensors in kept])
    seconds = sum(figures["seconds"] for _, _, figures, _ in runs)
    result.cycles_per_second = sum(figures["simulated"] for _, _, figures, _ in runs) / seconds


def _measure(result, program, chosen, figures, tensors):
    """Take the figures of one run."""
    result.counters = figures["counters"]
    result.cycles_predicted = program.predicted["cycles"]
    result.passes = program.predicted.get("passes")
    result.bandwidth = program.predicted.get("bandwidth")
    result.scratchpad = program.predicted.get("scratchpad")
    result.window = 0, result.cycles
    if figures["trace"] is not None:
        result.timeline = read_timeline(figures["trace"], program)
        result.window = result.timeline.window
    cycles = result.window[1] - result.window[0]
    result.utilisation = program.work / (cycles * program.config.rows * program.config.cols)
    if result.passes:
        result.overhead = cycles / result.passes - 1
