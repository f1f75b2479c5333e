"""What is measured of points: functions of plain data to plain data, with an identity each.

Each of them may run on any worker and twice; what it needs and makes on the way (integer networks,
Verilog, compiled simulations) is in the cache of the machine that it runs on.
"""

import hashlib
import inspect
import json
import time
from functools import cache, lru_cache
from pathlib import Path

from systola.files.bounded import shorten
from systola.files.cache import entry, sources_of
from systola.hw.contract.config import AcceleratorConfig

__all__ = ["MEASURES", "MeasureError", "identity", "measured", "network_identity"]

_NETWORKS = 4
"""Integer networks that a worker keeps in memory."""


class MeasureError(ValueError):
    """A point cannot be measured; one line says why."""


def identity(name, inputs):
    """Return the key of a measure of `inputs`: of these and of all code that it runs."""
    text = json.dumps([name, inputs], sort_keys=True)
    return hashlib.sha256(_sources(name) + text.encode()).hexdigest()[:32]


@cache
def _sources(name):
    function, modules = MEASURES[name]
    digest = hashlib.sha256()
    for source in [inspect.getsource(function).encode(), *sources_of(*modules)]:
        digest.update(len(source).to_bytes(8, "little") + source)
    return digest.digest()


def network_identity(network):
    """Return `network` of a space with hashes of the files that it names.

    Raises
    ------
    MeasureError
        If one is not there.
    """
    from systola.model.data.examples import checkpoint_path, is_example

    if network["random_weights"]:
        return dict(network)
    source = network["model"]
    paths = {"model": checkpoint_path(source) if is_example(source) else source,
             "data": network["data"], "calibration": network["calibration"]}
    return network | {"files": {name: _digest(name, Path(path)) for name, path in paths.items()
                                if path is not None}}


def _digest(name, path):
    """Return a hash of a file, or of names and sizes in a folder."""
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for item in sorted(path.rglob("*")):
                digest.update(f"{item.relative_to(path)} {item.stat().st_size}\n".encode())
        else:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256")
    except OSError as error:
        raise MeasureError(f"{name} of [network] must be a file or folder that can be read, not "
                           f"{str(path)!r}: {error.strerror}") from None
    return digest.hexdigest()[:16]


def measured(shared, name, inputs):
    """Return ``(outcome, seconds)`` of a measure of `inputs`; nothing that it raises gets out.

    Parameters
    ----------
    shared : object
        Not used; what `systola.cluster.cluster.Cluster.map` gives to all tasks.
    name : str
        One of `MEASURES`.
    inputs : dict
        What it takes.

    Returns
    -------
    outcome : dict
        ``values``, the figures by name; or ``refused``, why the point cannot be; or ``failed``,
        what went wrong.
    seconds : float
    """
    from systola.sw_driver.compiler.compiler import CompileError

    start = time.perf_counter()
    try:
        outcome = {"values": MEASURES[name][0](**inputs)}
    except CompileError as error:
        outcome = {"refused": shorten(error)}
    except (ValueError, RuntimeError, OSError, MemoryError, ArithmeticError) as error:
        outcome = {"failed": shorten(error) or type(error).__name__}
    return outcome, round(time.perf_counter() - start, 3)


@lru_cache(_NETWORKS)
def _network(text):
    """Return the integer network of ``[network, settings]`` as JSON: made once a machine."""
    from systola.model.data.synthetic import random_named
    from systola.model.evaluation.accuracy import calibration_images, open_float, quantized
    from systola.model.graph.graph_file import load_network, save_network

    network, settings = json.loads(text)
    with entry("network", [_sources("accuracy"), text]) as (folder, fill):
        if fill is not None:
            if network["random_weights"]:
                graph = random_named(network["model"], blocks=network["blocks"],
                                     seed=network["seed"], **settings)
            else:
                vit = open_float(network["model"])
                images = calibration_images(network["model"], vit, network["calibration"],
                                            scored=network["data"])
                graph = quantized(network["model"], vit, images, **settings)
            save_network(graph, fill / "network.safetensors")
    return load_network(folder / "network.safetensors")


def _graph(network, settings):
    return _network(json.dumps([network, settings], sort_keys=True))


def _part(network, graph):
    """Return what of a network runs: encoder blocks alone, where a number of them is given."""
    from systola.model.graph.encoder import encoder_blocks

    return graph if network["blocks"] is None else encoder_blocks(graph, network["blocks"])


def _images(network, graph):
    from systola.model.evaluation.accuracy import scored_images

    images = scored_images(network["model"], graph, network["data"])
    return images if network["images"] is None else images.thinned(network["images"])


def _accuracy(network, settings):
    from systola.model.evaluation.accuracy import evaluate

    graph = _graph(network, settings)
    images = _images(network, graph)
    found = evaluate(None, graph, images, images.labels)
    return {"int_top1": round(found["int_top1"], 6), "images": found["images"]}


def _compile(network, settings, config, batch):
    from systola.sw_driver.compiler.compiler import compile_network

    program = compile_network(_part(network, _graph(network, settings)),
                              AcceleratorConfig.from_dict(config), images=batch)
    predicted = program.predicted
    return {"cycles": round(predicted["cycles"] / batch, 2),
            "stream_bytes": round(len(program.stream) / batch, 2),
            "bytes_per_cycle": round(len(program.stream) / predicted["cycles"], 4),
            "utilisation": predicted["utilisation"],
            "scratchpad_words": predicted["scratchpad"]["peak"]}


def _synthesis(config):
    from systola.boards.synthesis.sizes import unit_sizes
    from systola.boards.synthesis.synth import synthesize

    found = synthesize(AcceleratorConfig.from_dict(config)).to_dict()
    return {**found["total"], "units": dict(unit_sizes(found["modules"], found["top"]))}


def _case(network, settings, images):
    """Return the network and `images` inputs for it."""
    import numpy as np

    from systola.model.data.images import encode
    from systola.model.data.synthetic import random_codes, random_stream

    graph = _graph(network, settings)
    part = _part(network, graph)
    if network["random_weights"]:
        make = random_codes if network["blocks"] is None else random_stream
        return part, make(np.random.default_rng([network["seed"], 1]), graph, images)
    return part, encode(graph, _images(network, graph)[:images])


def _rtl(network, settings, config, batch, images):
    from systola.sim.runs.simulate import simulate

    count = -(-images // batch) * batch
    graph, inputs = _case(network, settings, count)
    run = simulate(graph, AcceleratorConfig.from_dict(config), inputs, batch=batch)
    return {"mismatches": run.mismatches, "elements_compared": run.elements_compared,
            "images": run.images, "cycles_simulated": round(run.cycles / batch, 2)}


def _power(network, settings, config, mhz):
    from systola.boards.power.accelerator_power import accelerator_power

    graph, inputs = _case(network, settings, 1)
    found = accelerator_power(graph, AcceleratorConfig.from_dict(config), inputs, mhz=mhz)
    if found["mismatches"] or found["pin_mismatches"]:
        raise MeasureError(f"the mapped netlist differs from the model in {found['mismatches']} "
                           f"elements and {found['pin_mismatches']} pins")
    return {"energy_uj": round(found["energy_uj_per_image"], 4),
            "power_mw": round(found["total"]["mw"], 3),
            "units": {unit["name"]: {name: round(unit[name], 4) for name in (
                "lut", "ff", "dsp", "bram36", "mw")} for unit in found["units"]},
            "static_mw": round(found["static_mw"], 4)}


def _route(config, seeds, device, target):
    from systola.boards.flows.ecp5_timing import fmax_ecp5

    found = fmax_ecp5(AcceleratorConfig.from_dict(config), seeds=seeds, device=device,
                      target=target)
    cells = found.cells
    return {"fmax_mhz": found.median, "ecp5_lut": cells.get("TRELLIS_COMB", 0),
            "ecp5_ff": cells.get("TRELLIS_FF", 0), "ecp5_dsp": cells.get("MULT18X18D", 0),
            "ecp5_bram": cells.get("DP16KD", 0)}


MEASURES = {
    "accuracy": (_accuracy, ("systola.model.evaluation.accuracy",
                             "systola.model.data.synthetic")),
    "compile": (_compile, ("systola.model.evaluation.accuracy", "systola.model.data.synthetic",
                           "systola.sw_driver.compiler.compiler")),
    "synthesis": (_synthesis, ("systola.boards.synthesis.synth",)),
    "rtl": (_rtl, ("systola.model.evaluation.accuracy", "systola.model.data.synthetic",
                   "systola.sim.runs.simulate")),
    "power": (_power, ("systola.model.evaluation.accuracy", "systola.model.data.synthetic",
                       "systola.boards.power.accelerator_power")),
    "route": (_route, ("systola.boards.flows.ecp5_timing",)),
}
"""Measures by name: the function, and the modules that its result depends on."""
