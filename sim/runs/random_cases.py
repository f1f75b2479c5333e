"""Random small accelerators with a random network each: what no hand-picked case would hit."""

import dataclasses

import numpy as np

from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.numbers import COMPARED_BITS, LEVELS
from systola.model.allocation.node_precisions import Precision
from systola.model.data.synthetic import random_codes, random_vit
from systola.model.graph.masks import masked
from systola.model.graph.nodes import Scores

__all__ = ["random_case", "random_graph"]


def random_case(seed, *, images=2):
    """Return ``(graph, config, codes)`` of this seed; codes by input name, images first.

    Array shape, style, lanes, operand widths, memories, FIFO depths and options vary, as do all
    sizes of the network; rows, columns, tokens and channels rarely divide each other.
    """
    rng = np.random.default_rng(seed)
    config = _config(rng)
    # Apart, so that what was drawn before stays.
    if config.attention == "published" and np.random.default_rng([seed, 5]).random() < 0.4:
        config = dataclasses.replace(config, attention="normalised", attention_bits=16)
    if config.attention == "deferred" and np.random.default_rng([seed, 9]).random() < 0.5:
        scheme = list(LEVELS)[np.random.default_rng([seed, 10]).integers(len(LEVELS))]
        config = dataclasses.replace(config, attention=scheme)
    config = _with_narrow(config, np.random.default_rng([seed, 7]))
    if config.cols % 2 == 0 and np.random.default_rng([seed, 8]).random() < 0.5:
        config = dataclasses.replace(config, weight_codes=True)  # of layers with up to 4 bits
    if config.act_bits <= COMPARED_BITS and np.random.default_rng([seed, 11]).random() < 0.5:
        config = dataclasses.replace(config, norm="compared")
    heads = int(rng.integers(1, 4))
    sizes = {"heads": heads, "channels": heads * int(rng.integers(2, 9)),
             "blocks": int(rng.integers(1, 3)), "hidden": int(rng.integers(3, 41)),
             "classes": int(rng.integers(2, 13)), "tokens": int(rng.integers(2, 15)),
             "patch_dim": int(rng.integers(1, 20))}
    kind = np.random.default_rng([seed, 1])
    form = _form(kind)
    if form["pooling"] == "mean":
        config = dataclasses.replace(config, pooling="mean")
    masks = np.random.default_rng([seed, 12])
    config = dataclasses.replace(config, masks=bool(masks.random() < 0.4))
    graph = _masked(masks, config, _graph(rng, kind, config, sizes, form))
    return graph, config, random_codes(rng, graph, images)


def random_graph(seed, config, *, images=1):
    """Return ``(graph, codes)`` of this seed, a small network for an accelerator that is there.

    It has no, one or several constant rows, one or two heads or the mean over its rows, and weights
    of fewer bits in some layers.
    """
    rng = np.random.default_rng([seed, 2])
    heads = int(rng.integers(1, 4))
    sizes = {"heads": heads, "channels": heads * int(rng.integers(2, 6)),
             "blocks": int(rng.integers(1, 3)), "hidden": int(rng.integers(3, 20)),
             "classes": int(rng.integers(2, 9)), "tokens": int(rng.integers(2, 9)),
             "patch_dim": int(rng.integers(1, 9))}
    graph = _masked(rng, config, _graph(rng, rng, config, sizes, _form(rng)))
    return graph, random_codes(rng, graph, images)


def _masked(rng, config, graph):
    """Return a network with or without a mask, for masks the accelerator must have or not."""
    rows = graph.tensors[graph.of(Scores)[0].name].rows
    kind = rng.choice(["none", "none", "padded", "causal", "any"])
    if kind == "none" or (kind != "padded" and not config.masks):
        return graph
    return masked(graph, {"padded": np.full(rows, rng.integers(min(2, rows), rows + 1)),
                          "causal": np.arange(1, rows + 1),
                          "any": rng.integers(1, rows + 1, rows)}[kind])


def _graph(rng, kind, config, sizes, form):
    """Return a network of these sizes with weights from `rng` and what varies from `kind`."""
    sizes = {**sizes, **form, "tokens": max(sizes["tokens"], form["prefixes"] + 1)}
    choices = {f"blocks.{index}.{name}": {"weight_bits": int(kind.integers(
        2, config.weight_bits + 1))} for index in range(sizes["blocks"])
        for name in ("attn_out", "fc1", "out") if kind.random() < 0.3}
    turns = [Precision(config.weight_bits, config.act_bits),
             Precision(config.narrow_bits, config.narrow_bits)] if config.narrow_bits else ()
    return random_vit(rng, **sizes, choices=choices, linear_bits=turns, **config.model_settings)


def _with_narrow(config, rng):
    """Return `config`, of some packed arrays with a second precision and what that needs."""
    most = min(config.act_bits // 2, 4)
    if (config.pe_style != "dsp_packed" or config.attention == "published" or most < 2
            or rng.random() < 0.3):
        return config
    bits = int(rng.integers(2, most + 1))
    return dataclasses.replace(config, narrow_bits=bits, rows=max(config.rows, 2 * config.cols),
                               weight_bits=2 * int(rng.integers(bits, 5)))


def _form(rng):
    """Return what feeds the head, and how many constant rows there are."""
    form = str(rng.choice(["token", "token", "registers", "distilled", "mean"]))
    prefixes = {"token": 1, "registers": int(rng.integers(2, 6)),
                "distilled": int(rng.integers(2, 7)), "mean": int(rng.integers(0, 3))}[form]
    return {"prefixes": prefixes, "distilled": form == "distilled",
            "pooling": "mean" if form == "mean" else "token"}


def _config(rng):
    def choose(*values):
        return values[rng.integers(len(values))]

    lanes = choose(1, 1, 2, 2, 3)  # their dividers are most of what has to be compiled
    rows = lanes * int(rng.integers(1, 8 // lanes + 1))
    rows = max(rows, 2 if lanes == 1 else lanes)
    cols = lanes * int(rng.integers(1, rows // lanes + 1))
    vector_lanes = choose(*(n for n in range(1, lanes + 1) if lanes % n == 0))
    attention = choose("published", "deferred")
    deferred = attention == "deferred"
    mult_bits = int(rng.integers(12, 25 if deferred else 32))
    # Three banks have three quarters of the words that the others have together.
    banks, bank_depth = choose((1, 4096), (2, 2048), (3, 1024), (4, 1024))
    # Packed slices serve two columns or three; with an even number, any widths can be packed.
    pe_style = choose("dsp", "lut", *["dsp_packed"] * (2 if cols % 2 == 0 else 0))
    return AcceleratorConfig(
        rows=rows, cols=cols, lanes=lanes, vector_lanes=vector_lanes,
        norm_lanes=choose(*(n for n in range(1, vector_lanes + 1) if vector_lanes % n == 0)),
        weight_bits=int(rng.integers(2, 9)), act_bits=8 if deferred else int(rng.integers(2, 9)),
        pe_style=pe_style, token_depth=choose(4, 8, 16),
        acc_buffers=choose(2, 2, 3, 4), banks=banks, bank_depth=bank_depth,
        weight_fifo=int(rng.integers(2, 20)), stream_fifo=int(rng.integers(4, 20)),
        queue_depth=int(rng.integers(2, 9)), param_depth=256, param_ports=choose(1, 2),
        mult_bits=mult_bits, code_mult_bits=int(rng.integers(10, mult_bits + 1)),
        attention=attention, attention_bits=choose(8, 16), gelu=choose("published", "table"),
        norm_roots=choose(1, 2, 4), norm=choose("published", "leading_one", "normalised"),
        max_row=64, x0_bits=12)
