"""An FPGA accelerator generator for integer-only Vision Transformers; docs/API.md shows its use."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from systola.hw.contract.config import AcceleratorConfig

    __version__: str

__all__ = ["AcceleratorConfig", "__version__", "compile", "encode", "evaluate", "finetune",
           "load_checkpoint", "load_data", "load_network", "quantize", "save_network", "simulate"]

# Every function imports what it needs when it is called: reading a network needs no simulator.


def __getattr__(name):
    if name == "AcceleratorConfig":
        from systola.hw.contract.config import AcceleratorConfig

        return AcceleratorConfig
    if name == "__version__":
        from importlib.metadata import version

        return version("systola")
    raise AttributeError(f"module 'systola' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})


def load_checkpoint(source, *, processor=None, **facts):
    """Read a float checkpoint.

    Parameters
    ----------
    source : str, Path or module
        ``digits``; a folder or file of timm or Hugging Face; or a model of theirs in memory.
    processor : object, optional
        The image processor of a model of transformers, which says how images are prepared.
    **facts
        What no file says: ``heads``, ``mean``, ``std``, ``eps``, ``activation``, ``image_size``.

    Returns
    -------
    Graph
        The float network. Its ``meta`` says where each fact came from, and what was ``assumed``.

    Raises
    ------
    ValueError
        If the file is missing or unusable; one line, as of all functions here.
    """
    from systola.model.evaluation.accuracy import open_float

    return open_float(source, processor=processor, **facts)


def load_data(source, split="test", *, labelled=True, network=None):
    """Read images and labels.

    Parameters
    ----------
    source : str or Path
        ``digits``; a ``.safetensors`` or ``.npz`` file with ``images``, (B, H, W) or (B, channels,
        H, W), floating point in 0..1 or uint8, and ``labels`` (B,); a folder of pictures, IDX or
        Parquet files, see docs/MODELS.md.
    split : str
        ``train`` or ``test``, where the source has such parts.
    labelled : bool
        Without it, labels are neither needed nor returned, but None.
    network : Graph, optional
        The network that they are for, float or integer: pictures get its size and colours.

    Returns
    -------
    images : float32 array, or sequence of such
        In 0..1. With a network a sequence, of which slices are read when they are asked for;
        `evaluate` and `quantize` take it like an array.
    labels : int64 array (B,), or None
    """
    from systola.model.data.images import load_data

    return load_data(source, split, labelled=labelled, graph=network)


def quantize(network, images, *, config=None, codebook=None, choices=None, allocate=None,
             progress=None):
    """Return the integer network of a float one.

    Parameters
    ----------
    network : Graph
        The float network.
    images : array, or dict of str to array
        Training images in 0..1 that ranges are taken from, or the network's inputs by name, (B,
        rows, channels).
    config : AcceleratorConfig, str or Path, optional
        The accelerator that the network shall run on, or what `AcceleratorConfig.load` takes: it
        gives the bits and the forms of operators. By default those of `AcceleratorConfig()`.
    codebook : str, optional
        ``nupes``, ``squares``, ``kmeans`` or ``powers``: the weights of each linear node are at
        most 16 values of 8 bits, for which codes of 4 bits stand (docs/MODELS.md).
    choices : dict of str to dict, optional
        By node, ``bits`` of its result, and ``weight_bits`` and ``codebook`` (or None) of a linear
        node instead.
    allocate : dict of str to number, optional
        Limits of ``bytes``, ``bops`` or ``cycles``, each a share from 0 to 1 or a number: every
        linear node gets bits of its own, those of least loss (docs/MODELS.md). Instead of
        `choices` and `codebook`.
    progress : callable, optional
        Called as ``progress(images done, images in total)``.

    Returns
    -------
    Graph
        The integer network.
    """
    from systola.model.quantization.quantize import quantize

    settings = {} if config is None else _config(config).model_settings
    if allocate is not None:
        if choices is not None:
            raise ValueError("choices must be left out with allocate, which makes them")
        if codebook is not None:
            raise ValueError("codebook must be left out with allocate, which gives weights fewer "
                             "bits than a codebook needs")
        return _allocated(network, _inputs(network, images), config, settings, allocate, progress)
    return quantize(network, _inputs(network, images), codebook=codebook, choices=choices,
                    progress=progress, **settings)


def _allocated(network, inputs, config, settings, limits, progress):
    """Return the integer network with bits by node that limits allow."""
    from systola.model.evaluation.allocated import Allocator
    from systola.sw_driver.compiler.compiler import compile_operations

    def predict(made):
        return compile_operations(made, _config(config))[2].cycles

    allocator = Allocator(network, inputs, predict=None if config is None else predict, **settings)
    return allocator.network(allocator.allocate(limits), progress=progress)


def evaluate(network, images, labels, *, reference=None, batch=32, progress=None):
    """Return the accuracy of an integer network on labelled images in 0..1.

    Parameters
    ----------
    network : Graph
        The integer network.
    images, labels : array
        As from `load_data`.
    reference : Graph, optional
        The float network to compare it with.
    batch : int
        Images that are computed at a time; it changes no result.
    progress : callable, optional
        Called as ``progress(images done, images in total)``.

    Returns
    -------
    dict
        ``images``, their number; ``int_top1``, and with a reference ``float_top1`` and
        ``agreement`` (equal predictions): shares from 0 to 1.
    """
    from systola.model.evaluation.accuracy import evaluate

    return evaluate(reference, network, images, labels, batch=batch, progress=progress)


def finetune(network, images, labels, *, reference=None, checkpoint=None, device=None,
             progress=None, report=None, **settings):
    """Train an integer network on labelled images in 0..1, as what it computes; needs PyTorch.

    Parameters
    ----------
    network : Graph
        The integer network, of one row of logits.
    images, labels : array
        Training images as from `load_data`.
    reference : Graph, optional
        The float network that it was made from, the teacher; without it labels alone measure.
    checkpoint : str or Path, optional
        File (``.safetensors``) that training goes on from if it exists, and that is written after
        every epoch.
    device : str, optional
        Where PyTorch computes gradients; by default a GPU if it has one.
    progress, report : callable, optional
        Called as ``progress(steps done, steps in total)``, and with the record of every epoch.
    **settings
        Those of `systola.model.training.training_settings.TrainingSettings`: ``epochs``, ``rate``
        and more, see docs/TRAINING.md.

    Returns
    -------
    FineTuned
        ``network``, the integer network; ``history``, a record of every epoch; and ``epoch``, that
        of the network.
    """
    from systola.model.evaluation.accuracy import float_logits
    from systola.model.evaluation.training_views import training_views
    from systola.model.training.finetune import finetune
    from systola.model.training.training_settings import TrainingSettings

    if reference is None:
        if settings.get("distill"):
            raise ValueError(f"reference must be the float network for a distill of "
                             f"{settings['distill']}, not none")
        settings["distill"] = 0.0
    settings = TrainingSettings(**settings)
    return finetune(
        network, encode(network, images), labels, settings, checkpoint=checkpoint, device=device,
        teacher=float_logits(reference, images) if settings.distill else None, progress=progress,
        views=training_views(network, reference, images, settings), report=report)


def encode(network, images):
    """Return images in 0..1 as the inputs of an integer network: a dict of integer arrays.

    Of a sequence that `load_data` returned with a network, take a slice: ``images[:10]``.
    """
    from systola.model.data.images import encode

    return encode(network, images)


def load_network(path):
    """Read an integer network that `save_network` or ``systola quantize`` wrote."""
    from systola.model.graph.graph_file import load_network

    return load_network(path)


def save_network(network, path):
    """Write an integer network to a ``.safetensors`` file."""
    from systola.model.graph.graph_file import save_network

    save_network(network, path)


def compile(network, config, *, batch=1, trace=False):
    """Return the program that runs an integer network on an accelerator.

    Parameters
    ----------
    network : Graph
        The integer network.
    config : AcceleratorConfig, str or Path
        The accelerator, or what `AcceleratorConfig.load` takes.
    batch : int
        Images that one run computes.
    trace : bool
        Store every tensor, not only the results.

    Returns
    -------
    Program
        ``write(path)`` puts it into a file for the driver, ``predicted["cycles"]`` is the time of
        a run.
    """
    from systola.sw_driver.compiler.compiler import compile_network

    return compile_network(network, _config(config), images=batch, trace=trace)


def simulate(network, config, inputs, *, batch=1, trace=True, progress=None):
    """Run an integer network on the simulated Verilog and compare it with the integer model.

    Compiled simulations are kept, see docs/API.md.

    Parameters
    ----------
    network : Graph
        The integer network.
    config : AcceleratorConfig, str or Path
        The accelerator, or what `AcceleratorConfig.load` takes.
    inputs : array, or dict of str to int array
        Images in 0..1, or the network's inputs by name, (images, rows, channels).
    batch : int
        Images that one run of the program computes.
    trace : bool
        Compare every tensor, not only the results.
    progress : callable, optional
        Called as ``progress(done, total, text=...)``.

    Returns
    -------
    Simulation
        ``mismatches``, ``cycles``, ``logits`` and more.
    """
    from systola.sim.runs.simulate import simulate

    inputs = inputs if isinstance(inputs, dict) else encode(network, inputs)
    return simulate(network, _config(config), inputs, batch=batch, trace=trace, progress=progress)


def _inputs(network, images):
    from systola.model.data.images import float_inputs

    return images if isinstance(images, dict) else float_inputs(network, images)


def _config(config):
    from systola.hw.contract.config import AcceleratorConfig

    return config if isinstance(config, AcceleratorConfig) else AcceleratorConfig.load(config)
