"""The networks and inputs that `systola simulate` can be asked for."""

import dataclasses
from dataclasses import dataclass

import click

__all__ = ["Case", "choose_case"]

SIZES = {"deit_tiny": "arty_s7_50", "deit_small": "array_16x16_large",
         "vit_base": "array_16x16_large", "swin_tiny": "swin_tiny",
         "text_causal": "texts", "text_padded": "texts"}
"""Networks whose sizes are built in, not their weights, and a preset that holds each."""

STAGED = {"swin_tiny"}
"""Those whose blocks differ."""


@dataclass(kw_only=True)
class Case:
    """What to simulate: a network, an accelerator, inputs by name (images first), and labels."""

    model: object
    config: object
    inputs: object
    labels: object = None
    about: dict


def choose_case(source, *, is_random, random_weights, config, attention, blocks, seed, images,
                data, update, linear_bits=None):
    """Return the `Case` that the options of the command describe; refuses contradictions."""
    if is_random == (source is not None):
        raise click.UsageError("give either --model or --random")
    if seed is not None and not (is_random or random_weights):
        raise click.UsageError("--seed chooses a random case and needs --random or "
                               "--random-weights")
    if source in SIZES and not random_weights:
        raise click.UsageError(f"no checkpoint of {source} is shipped: ask for --random-weights, "
                               f"or give a checkpoint file as MODEL")
    if random_weights and source not in SIZES:
        raise click.UsageError(f"--random-weights needs --model {' or '.join(SIZES)}, "
                               f"not {source!r}")
    if linear_bits and not random_weights:
        raise click.UsageError("--linear-bits is for --random-weights; `systola quantize "
                               "--allocate` chooses bits of other models by node")
    if is_random:
        for name, value in (("--config", config), ("--attention", attention),
                            ("--blocks", blocks), ("--data", data)):
            if value is not None:
                raise click.UsageError(f"--random chooses a random accelerator, network and "
                                       f"inputs, without {name}")
        return _random_case(seed or 0, images)
    if random_weights and data is not None:
        raise click.UsageError(f"--random-weights come with random inputs, without --data; images "
                               f"like those of {data!r} need a checkpoint as --model")
    if blocks is not None and source in STAGED:
        raise click.UsageError(f"--blocks is for encoder blocks of one size, not the stages of "
                               f"{source}")
    chosen = config or SIZES.get(source) or _preset(source)
    case = (_named_case(source, _config(chosen, attention), blocks, seed or 0, images,
                        linear_bits or ()) if random_weights
            else _model_case(source, _config(chosen, attention), blocks, images, data, update))
    if config is None:
        case.about["config"] = f"preset {chosen}"
    return case


def _preset(source):
    """Return the name of the first preset that runs a model: digits does all that is shipped."""
    from systola.model.data.examples import is_example
    from systola.model.evaluation.accuracy import open_as_is
    from systola.report.preset_table import first_preset

    return "digits" if is_example(source) else first_preset(open_as_is(source)) or "digits"


def _config(source, attention):
    from systola.hw.contract.config import AcceleratorConfig

    config = AcceleratorConfig.load(source)
    return config if attention is None else dataclasses.replace(config, attention=attention)


def _random_case(seed, images):
    from systola.sim.runs.random_cases import random_case

    model, config, codes = random_case(seed, images=images)
    return Case(model=model, config=config, inputs=codes, about={"model": "random", "seed": seed})


def _named_case(name, config, blocks, seed, images, linear_bits):
    import numpy as np

    from systola.model.data.synthetic import (
        TEXTS,
        random_codes,
        random_named,
        random_stream,
        random_token_codes,
    )
    from systola.model.graph.encoder import encoder_blocks
    from systola.model.graph.nodes import Scores

    model = random_named(name, blocks=blocks, seed=seed, linear_bits=linear_bits,
                         **config.model_settings)
    whole = random_token_codes if name in TEXTS else random_codes
    inputs = (whole if blocks is None else random_stream)(
        np.random.default_rng([seed, 1]), model, images)
    about = {"model": name, "weights": "random", "seed": seed, "blocks": len(model.of(Scores)),
             **({"linear_bits": list(map(str, linear_bits))} if linear_bits else {})}
    return Case(model=model if blocks is None else encoder_blocks(model, blocks), config=config,
                inputs=inputs, about=about)


def _model_case(source, config, blocks, count, data, update):
    """Take a model from a file; a float checkpoint is quantized as `config` wants it."""
    from systola.model.data.examples import is_example
    from systola.model.data.images import encode, has_training, open_images
    from systola.model.evaluation.accuracy import is_integer, open_network
    from systola.model.graph.encoder import encoder_blocks, encoder_depth
    from systola.model.graph.integer_forward import forward

    example = is_example(source)
    settings = {} if is_integer(source) else config.model_settings
    model = open_network(source, data=data, progress=update, **settings)
    images = open_images(data or (source if example else "digits"), "test", graph=model)
    if count > len(images):
        raise click.UsageError(f"--images must be at most {len(images)}, the test images there "
                               f"are, not {count}")
    labels, codes = images.labels, encode(model, images[:count])
    about = {"model": source, "data": images.about()}
    if settings and not example:
        # Of a set without parts the first images are simulated, and all of them gave the ranges.
        about["calibration"] = (f"{data}, training images" if has_training(data) else
                                f"{data}, the simulated images included")
        about["assumed"] = model.meta.get("assumed", [])
    if blocks is None:
        return Case(model=model, config=config, inputs=codes, labels=labels[:count], about=about)
    if blocks > encoder_depth(model):
        raise click.UsageError(f"--blocks must be at most {encoder_depth(model)}, the blocks there "
                               f"are, not {blocks}")
    part = encoder_blocks(model, blocks)
    names = [node.name for node in part.inputs]
    return Case(model=part, config=config, inputs=forward(model, codes, keep=names),
                about={**about, "blocks": blocks})
