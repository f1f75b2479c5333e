"""A network in pieces on the simulated accelerator: what lies between them goes out and in."""

from dataclasses import dataclass, field

import numpy as np

from systola.model.graph.integer_forward import forward
from systola.sim.runs.simulate import simulate
from systola.sw_driver.compiler.compiler import compile_network
from systola.sw_driver.compiler.pieces import pieces

__all__ = ["PiecewiseSimulation", "simulate_pieces"]


@dataclass(kw_only=True)
class PiecewiseSimulation:
    """What came out of `simulate_pieces`; figures of one image, of the slowest of several.

    Attributes
    ----------
    images, tensors_compared, elements_compared, mismatches : int
        As `systola.sim.runs.simulate.Simulation` has them; the results of the whole network, too.
    differing : dict of str to int
        Elements that differ, by piece and tensor.
    cycles, cycles_predicted : int
        Of all runs of all pieces.
    utilisation : float
        Multiply-accumulates that the network needs in those that the array could have done in all
        these cycles, the streams between pieces included.
    pieces : list of dict
        Of each piece: ``source`` and ``target``, its tensors; ``rows`` of the target, ``runs`` of
        programs and ``programs`` that differ; cycles and those predicted; and bytes over the
        streams: ``rows_in`` and ``rows_out`` of source and target, ``bytes_in`` of whole programs
        with their weights, and ``bytes_out``.
    """

    images: int
    tensors_compared: int = 0
    elements_compared: int = 0
    mismatches: int = 0
    differing: dict = field(default_factory=dict)
    cycles: int = 0
    cycles_predicted: int = 0
    utilisation: float = 0.0
    pieces: list = field(default_factory=list)

    def report(self):
        """Return the figures as plain data."""
        sums = {name: sum(piece[name] for piece in self.pieces)
                for name in ("rows_in", "rows_out", "bytes_in", "bytes_out")}
        return {**vars(self), **sums, "bytes_per_cycle": round(
            (sums["bytes_in"] + sums["bytes_out"]) / max(self.cycles, 1), 3)}


def simulate_pieces(graph, config, inputs, *, trace=True, progress=None, **options):
    """Run a network on the simulated accelerator of `config`, piece by piece.

    Parameters
    ----------
    graph : Graph
        The integer network, of one input and one output.
    config : AcceleratorConfig
        The accelerator.
    inputs : dict of str to int array
        Its input by name, (images, rows, channels).
    trace : bool
        Whether to compare every intermediate tensor, too, not only what leaves the pieces, which
        then are smaller.
    progress : callable, optional
        Called as ``progress(done, total, text=...)``.
    **options
        Of `systola.sim.runs.simulate.simulate`.

    Raises
    ------
    CompileError
        If rows that must be computed together do not fit the accelerator.
    SimulationError
        If the simulation cannot be compiled, hangs, or the accelerator reports an error.
    """
    progress = progress or (lambda *args, **more: None)
    plan = pieces(graph, config, trace=trace, progress=lambda done, total: progress(
        done, total, text="cutting the network"))
    (values,) = inputs.values()
    result = PiecewiseSimulation(images=len(values))
    for index, piece in enumerate(plan):
        progress(index, len(plan), text=f"simulating {piece.target}")
        values = _piece(result, graph, config, piece, values, trace=trace, **options)
    (output,) = graph.outputs
    wrong = int(np.sum(values != forward(graph, inputs, keep=graph.outputs)[output]))
    result.tensors_compared += len(values)
    result.elements_compared += values.size
    if wrong:
        result.mismatches += wrong
        result.differing[f"the whole network: {output}"] = wrong
    result.utilisation = graph.multiplications / (result.cycles * config.rows * config.cols)
    return result


def _piece(result, graph, config, piece, values, **options):
    """Run one piece on its source (images, rows, channels), and return its target."""
    images, target = len(values), graph.tensors[piece.target]
    found = np.zeros((images, *target.shape), np.int64)
    row = {"source": piece.source, "target": piece.target, "rows": target.rows,
           "runs": piece.runs, "programs": len(piece.slices), "cycles": 0, "cycles_predicted": 0,
           "rows_in": 0, "rows_out": 0, "bytes_in": 0, "bytes_out": 0}
    for part, slices in piece.slices:
        # Slices that one program computes are its images.
        parts = np.concatenate([values[:, source] for source, _ in slices])
        run = simulate(part, config, {piece.source: parts}, **options)
        for place, (_, rows) in enumerate(slices):
            for image in range(images):
                found[image, rows] = run.tensors[place * images + image][piece.target]
        result.tensors_compared += run.tensors_compared
        result.elements_compared += run.elements_compared
        result.mismatches += run.mismatches
        result.differing |= {f"{piece.target}: {name}": count
                             for name, count in run.differing.items()}
        count, program = len(slices), compile_network(part, config)
        row["cycles"] += count * run.cycles
        row["cycles_predicted"] += count * run.cycles_predicted
        row["rows_in"] += count * _bytes(part, piece.source)
        row["rows_out"] += count * _bytes(part, piece.target)
        row["bytes_in"] += count * len(program.stream)
        row["bytes_out"] += count * sum(program.frames) * config.bus_bytes
    result.cycles += row["cycles"]
    result.cycles_predicted += row["cycles_predicted"]
    result.pieces.append(row)
    return found


def _bytes(graph, name):
    """Return the bytes of a tensor's codes."""
    tensor = graph.tensors[name]
    return tensor.rows * tensor.channels * (1 + (tensor.bits > 8))
