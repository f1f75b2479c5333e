"""Random small accelerators with a random network each: what no hand-picked case would hit."""

import numpy as np

from systola.hw.contract.config import AcceleratorConfig
from systola.model.data.synthetic import random_codes, random_vit

__all__ = ["random_case"]


def random_case(seed, *, images=2):
    """Return ``(model, config, codes)`` of this seed.

    Array shape, style, lanes, operand widths, memories, FIFO depths and options vary, as do all
    sizes of the network; rows, columns, tokens and channels rarely divide each other.
    """
    rng = np.random.default_rng(seed)
    config = _config(rng)
    heads = int(rng.integers(1, 4))
    model = random_vit(
        rng, heads=heads, channels=heads * int(rng.integers(2, 9)),
        blocks=int(rng.integers(1, 3)), hidden=int(rng.integers(3, 41)),
        classes=int(rng.integers(2, 13)), tokens=int(rng.integers(2, 15)),
        patch_dim=int(rng.integers(1, 20)),
        **config.model_settings)
    return model, config, random_codes(rng, model, images)


def _config(rng):
    def choose(*values):
        return values[rng.integers(len(values))]

    lanes = choose(1, 1, 2, 2, 3)  # their dividers are most of what has to be compiled
    rows = lanes * int(rng.integers(1, 8 // lanes + 1))
    rows = max(rows, 2 if lanes == 1 else lanes)
    cols = lanes * int(rng.integers(1, rows // lanes + 1))
    vector_lanes = choose(*(n for n in range(1, lanes + 1) if lanes % n == 0))
    attention = choose("exact", "deferred")
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
        pe_style=pe_style, token_depth=choose(4, 8, 16), banks=banks, bank_depth=bank_depth,
        weight_fifo=int(rng.integers(2, 20)), stream_fifo=int(rng.integers(4, 20)),
        queue_depth=int(rng.integers(2, 9)), param_depth=256,
        mult_bits=mult_bits, code_mult_bits=int(rng.integers(10, mult_bits + 1)),
        attention=attention, attention_bits=choose(8, 16), gelu=choose("exact", "table"),
        norm_roots=choose(1, 2, 4), norm_start=choose("published", "leading_one"),
        max_row=64, x0_bits=12)
