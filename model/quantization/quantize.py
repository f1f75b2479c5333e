"""Float network to integer network, node by node: scales, codes, multipliers, all offline."""

import dataclasses

import numpy as np

from systola.files.tensors import ModelError
from systola.hw.contract.config import AcceleratorConfig
from systola.hw.contract.numbers import (
    CODE_BITS,
    COMPARED_BITS,
    NORM_FRACTION,
    RESIDUAL_BITS,
    epsilon_bits,
)
from systola.model.graph.attention_nodes import EXPONENTIALS
from systola.model.graph.nodes import (
    CODEBOOK_BITS,
    Constant,
    Context,
    GraphError,
    Input,
    Linear,
    Mean,
    Norm,
    Rows,
    Scores,
    Softmax,
)
from systola.model.operators.deferred import numerator_bits
from systola.model.operators.ibert_gelu import gelu_constants, gelu_scale
from systola.model.operators.norm_codes import norm_share
from systola.model.quantization.activation_table import activation_table
from systola.model.quantization.calibrate import BATCH, calibrate
from systola.model.quantization.codebooks import exponent_of, search_of
from systola.model.quantization.equalize import (
    ChannelSamples,
    equalize,
    fold_norms,
    sampled_tensors,
)
from systola.model.quantization.lockstep import Lockstep
from systola.model.quantization.methods import BEST, CODEBOOKS, method_named
from systola.model.quantization.node_report import node_report
from systola.model.quantization.precision import MAX_UNIT, tensor_bits
from systola.model.quantization.recorded import recorded
from systola.model.quantization.replacements import (
    SharesSample,
    check_operators,
    softmax_parameters,
)
from systola.model.quantization.rounding import Moments, reconstructed, row_scales
from systola.model.quantization.scales import (
    UNIT_FACTOR,
    activation_scales,
    least_scales,
    multipliers,
    norm_root,
    weight_scales,
)
from systola.model.quantization.uniform import MIN_SCALE, bias_codes, exp_constant, scale_for
from systola.model.quantization.uniform import quantize as to_codes

__all__ = ["prepared", "quantize", "symmetric_tensors"]

_LEAST_EFFECT, _LARGEST_EFFECT = 0.01, 1e6
"""From what on the effect of a missing epsilon is noted, and what stands for all larger ones."""

_SIGMOID_BITS = 8
_WITH_EPSILON = "normalised", "compared"
_INT32 = (-2**31, 2**31 - 1)


def quantize(graph, images, *, weight_bits=8, act_bits=8, attention=AcceleratorConfig.attention,
             attention_bits=16, mult_bits=24, code_mult_bits=24, gelu=AcceleratorConfig.gelu,
             norm=AcceleratorConfig.norm, operators=None, method=BEST, codebook=None, choices=None,
             nodes=None, progress=None):
    """Return the integer network of a float one; docs/ARITHMETIC.md has the operators.

    Weights have a scale per output channel, activations one per tensor, from ranges over the
    calibration images; those of exponentials' inputs are widened until the unit is exact (on the
    digits that takes a third off the error). Both branches of a residual are rescaled straight to
    the scale of the sum. What attention reads consists of streamed (Q) and stationary (K, V)
    operands of the array, so it has the smaller of `weight_bits` and `act_bits`, and saturates
    symmetrically.

    Parameters
    ----------
    graph : Graph
        The float network.
    images : dict of str to ndarray or MappedRows
        Training images as its inputs, (B, rows, channels).
    weight_bits, act_bits, attention, attention_bits, mult_bits, code_mult_bits, gelu, norm
        As in `systola.hw.contract.config.AcceleratorConfig`, which also gives their ranges. No
        multiplier has more than `mult_bits`, whatever `code_mult_bits` is.
    operators : dict of str to str, optional
        By ``attention``, ``gelu`` or ``norm``, a variant instead that only models have, see
        `systola.model.graph.variants`.
    method : str
        Recipe, see `systola.model.quantization.methods.METHODS`.
    codebook : str, optional
        Codebook of the weights of every linear node, one of
        `systola.model.quantization.methods.CODEBOOKS`; it needs weights of 8 bits.
    choices : dict of str to dict, optional
        By node, ``bits`` of its result, and ``weight_bits`` and ``codebook`` (or None) of a linear
        node instead. Rows have the bits of their sources, softmax those of `attention`.
    nodes : dict, optional
        Gets a report of every node, see `systola.model.quantization.node_report.node_report`.
    progress : callable, optional
        Called as ``progress(images done, images in total)`` during calibration, of which some
        methods need two rounds.

    Returns
    -------
    Graph
        Its ``meta`` says under ``quantization`` the ``method``, on how many ``fitted_images``
        weights were rounded, and which tensors are ``coarse``: smaller than the least scale holds.
        ``left_out_epsilon`` is there where that matters, ``codebooks`` where there are some: by
        node the ``kind``, and of ``nupes`` and ``squares`` the ``exponent``.

    Raises
    ------
    ValueError
        If a setting is out of range (`ConfigError`), or if the network cannot be expressed in it
        (`ModelError`, `GraphError`).
    """
    settings = {"weight_bits": weight_bits, "act_bits": act_bits, "attention": attention,
                "attention_bits": attention_bits, "mult_bits": mult_bits,
                "code_mult_bits": code_mult_bits, "gelu": gelu, "norm": norm}
    factor_bits = AcceleratorConfig(**settings).factor_bits  # checks every setting
    check_operators(operators or {})
    settings |= operators or {}
    choices = choices or {}
    for name, choice in choices.items():
        _check_choice(graph, name, choice)
    recipe, bits = method_named(method), tensor_bits(graph, settings, choices)
    weights, codebooks = ({node.name: choices.get(node.name, {}).get(what, default)
                           for node in graph.of(Linear)}
                          for what, default in (("weight_bits", weight_bits),
                                                ("codebook", codebook)))
    _check_codebooks(weights, codebooks)
    # What equalisation and the scales of sums go by: a codebook has the steps of its codes.
    steps = {name: CODEBOOK_BITS if codebooks[name] else width for name, width in weights.items()}
    watch, shares = _Epsilon(graph), SharesSample(graph, settings["attention"])
    graph, images = prepared(graph, images, recipe, bits, steps, settings, progress)

    def watched(name, x):
        watch(name, x)
        shares(name, x)

    given = recorded(graph, settings) if recipe.ranges == "recorded" else {}
    ranges = calibrate(graph, images, how="running" if given else recipe.ranges, bits=bits,
                       progress=progress, symmetric=symmetric_tensors(graph, settings),
                       watch=watched) | given
    scales = activation_scales(graph, ranges, bits, steps, settings, shares)
    lockstep = Lockstep(graph, images, scales) if recipe.reconstruct else None
    quantizer = _Quantizer(graph, settings, bits, weights, codebooks, scales, lockstep, shares,
                           factor_bits)
    made = quantizer.graph()
    if nodes is not None:
        nodes.update(node_report(graph, made, images))
    effects = {} if settings["norm"] in _WITH_EPSILON else watch.effects()
    about = {"method": method, "fitted_images": lockstep.images if lockstep else 0,
             "coarse": [name for name, (low, high) in ranges.items()
                        if scales[name] == MIN_SCALE and max(-low, high) > 0]}
    about |= {"codebooks": quantizer.found} if quantizer.found else {}
    meta = {**made.meta, "quantization": about} | (
        {"left_out_epsilon": effects} if effects else {})
    return dataclasses.replace(made, meta=meta)


def prepared(graph, images, recipe, bits, weight_bits, settings, progress):
    """Return the float network as it is quantized, which computes the same, and its inputs.

    Layer norms of an operator without gains lose theirs; a recipe may `equalize`.

    Parameters
    ----------
    graph, images, progress
        As of `quantize`.
    recipe : Method
        Of `systola.model.quantization.methods`.
    bits, weight_bits
        As of `systola.model.quantization.equalize.equalize`.
    settings : dict
        ``gelu`` and ``norm``.
    """
    gains = settings["norm"] != "compared"
    if not gains:
        graph = fold_norms(graph)
    if not recipe.equalize:
        return graph, images
    count = len(next(iter(images.values())))
    samples = ChannelSamples(sampled_tensors(graph), -(-count // BATCH))
    calibrate(graph, images, progress=progress, watch=samples)
    return equalize(graph, images, samples, bits, weight_bits, tables=settings["gelu"] == "table",
                    norms=gains)


def symmetric_tensors(graph, settings):
    """Return the names of tensors whose lowest code is the negative of the largest."""
    return {node.name for node in graph.of(Norm)} if settings["norm"] == "compared" else ()


class _Epsilon:
    """What leaving out the epsilon of every layer norm does, from the rows that it reads."""

    def __init__(self, graph):
        self.least = {}
        self.readers = {}
        for node in graph.of(Norm):
            self.readers.setdefault(node.input, []).append(node)

    def __call__(self, name, x):
        for node in self.readers.get(name, ()):
            parts = x.reshape(*x.shape[:-1], node.groups, -1)
            least = float(parts.var(axis=-1).min())
            self.least[node.name] = (min(least, self.least.get(node.name, (least,))[0]), node.eps)

    def effects(self):
        """Return how much larger the row of the least variance gets, by node, from 1 % on."""
        effects = {name: (1 + eps / variance) ** 0.5 - 1 if variance else float("inf")
                   for name, (variance, eps) in self.least.items() if eps}
        return {name: min(effect, _LARGEST_EFFECT) for name, effect in effects.items()
                if effect >= _LEAST_EFFECT}


def _check_choice(graph, name, choice):
    """Raise `ModelError` unless a node of this name has results and weights of such bits."""
    node = graph.by_name.get(name)
    most = {"bits": 16} if not isinstance(node, Rows | Softmax) else {}
    most |= {"weight_bits": 8} if isinstance(node, Linear) else {}
    widths = {what: bits for what, bits in choice.items() if what != "codebook"}
    if node is None or not widths.keys() <= most.keys() or not all(
            type(bits) is int and 2 <= bits <= most[what] for what, bits in widths.items()) or (
                "codebook" in choice and not isinstance(node, Linear)):
        raise ModelError(f"choices must give bits, weight_bits or codebook of nodes that have "
                         f"them, not {str({name: choice})[:60]}")


def _check_codebooks(weight_bits, codebooks):
    """Raise `ModelError` unless codebooks by node exist and their weights have 8 bits."""
    for name, codebook in codebooks.items():
        if codebook is None:
            continue
        if not isinstance(codebook, str) or codebook not in CODEBOOKS:
            raise ModelError(f"codebook must be one of {', '.join(CODEBOOKS)}, not "
                             f"{str(codebook)[:60]!r}")
        if weight_bits[name] != CODE_BITS:
            raise ModelError(f"node {name!r}: weight_bits must be {CODE_BITS} with a codebook, the "
                             f"bits of its values, not {weight_bits[name]}")


class _Quantizer:
    """One quantization: the float network, the settings, bits and scale of every tensor."""

    def __init__(self, graph, settings, bits, weight_bits, codebooks, scales, lockstep, shares,
                 factor_bits):
        self.float, self.settings = graph, settings
        self.mult_bits = settings["mult_bits"]
        self.code_mult_bits = min(settings["code_mult_bits"], self.mult_bits)
        self.bits, self.weight_bits, self.scales = bits, weight_bits, scales
        self.codebooks, self.found = codebooks, {}  # as wanted, and what was found of them
        self.lockstep, self.shares, self.factor_bits = lockstep, shares, factor_bits
        self.constant = {}  # real values of channels that a norm does not deliver

    def graph(self):
        """Return the whole integer network."""
        nodes = []
        for node in self.float.nodes:
            nodes.append(getattr(self, f"_{node.kind}")(node))
            if self.lockstep:
                self.lockstep.step(node, nodes[-1])
        return dataclasses.replace(
            self.float, nodes=tuple(nodes),
            scales={name: float(scale) for name, scale in self.scales.items()})

    def _input(self, node):
        return Input(name=node.name, rows=node.rows, channels=node.channels,
                     bits=self.bits[node.name])

    def _constant(self, node):
        codes = to_codes(node.values, self.scales[node.name], self.bits[node.name])
        return Constant(name=node.name, values=codes.astype(np.int16), bits=self.bits[node.name])

    def _linear(self, node):
        """Quantize a linear layer.

        Products of channels that a norm before does not deliver (gamma zero) go into the bias.
        """
        width, s = self.weight_bits[node.name], self.scales
        codes, scale, bias, codebook = (
            self._reconstructed if self.lockstep else self._nearest)(node, width)
        if bias.min() < _INT32[0] or bias.max() > _INT32[1]:
            raise ModelError(f"node {node.name!r}: bias must fit in 32 bits at the scale of the "
                             f"products, not {max(-int(bias.min()), int(bias.max()))}")
        bits = self.bits[node.name]
        ratio = _ratio(scale * s[node.input], s[node.name])
        residual = {} if node.residual is None else dict(zip(
            ("res_mult", "res_shift"),
            self.dyadic(_ratio(s[node.residual], s[node.name]), self.mult_bits), strict=True))
        mult, shift = self.dyadic(ratio, self.width(bits))
        attended = any(isinstance(reader, Scores | Context)
                       for reader in self.float.consumers[node.name])
        return Linear(name=node.name, input=node.input, residual=node.residual,
                      weight=codes.astype(np.int8), bias=bias, bits=bits, weight_bits=width,
                      codebook=codebook, mult=mult, shift=shift, symmetric=attended, **residual)

    def _nearest(self, node, width):
        """Return codes of weights, scales, codes of the bias, each to the nearest, and codebook."""
        source, search = self.scales[node.input], self._search(node)
        if search:
            weight, least = node.weight.astype(np.float64), least_scales(node.bias, source)
            moments = Moments.of_weights(weight)
            grid = search(weight, least, moments)
            scale = row_scales(weight, least, grid, moments)
            codes = grid.nearest(weight / scale[:, None]).astype(np.int64)
            codebook = self._note(node, grid)
        else:
            scale, codebook = weight_scales(node.weight, node.bias, width, source), None
            top = 2 ** (width - 1) - 1
            codes = np.clip(to_codes(node.weight, scale[:, None], width), -top, top)
        bias = bias_codes(node.bias, scale, source)
        if node.input in self.constant:
            bias = bias + codes @ to_codes(self.constant[node.input], source,
                                           self.bits[node.input])
        return codes, scale, bias, codebook

    def _reconstructed(self, node, width):
        """Return the same for outputs nearest to the float ones, whatever the layer reads."""
        inputs, targets = self.lockstep.problem(node)
        source = self.scales[node.input]
        search = self._search(node)
        codes, scale, bias, grid = reconstructed(inputs, targets, node.weight, source, width,
                                                 search)
        # Not cut to 32 bits: what does not fit is refused.
        return (codes, scale.astype(np.float32), np.rint(bias / (scale * source)).astype(np.int64),
                self._note(node, grid) if search else None)

    def _search(self, node):
        """Return the search for a node's codebook, or None."""
        codebook = self.codebooks[node.name]
        return codebook and search_of(codebook)

    def _note(self, node, grid):
        """Return the codebook that was found for a node, int8, and note what it is."""
        kind = self.codebooks[node.name]
        self.found[node.name] = {"kind": kind} | (
            {"exponent": exponent_of(grid.values)} if kind in ("nupes", "squares") else {})
        return grid.values.astype(np.int8)

    def _scores(self, node):
        s = self.scales
        product = s[node.query] * s[node.key] * np.float32(node.scale)
        mult, shift = self.dyadic(_ratio(product, s[node.name]), self.code_mult_bits)
        return dataclasses.replace(node, scale=None, bits=self.bits[node.name], mult=mult,
                                   shift=shift, **self._score_bias(node))

    def _score_bias(self, node):
        """Return the bias of scores as codes with a scale of their own."""
        if node.bias_index is None:
            return {}
        scale = scale_for(node.bias_table.min(), node.bias_table.max(), RESIDUAL_BITS)
        mult, shift = self.dyadic(_ratio(scale, self.scales[node.name]), self.mult_bits)
        return {"bias_table": to_codes(node.bias_table, scale, RESIDUAL_BITS).astype(np.int16),
                "bias_mult": mult, "bias_shift": shift}

    def _softmax(self, node):
        variant, scale = self.settings["attention"], self.scales[node.input]
        try:
            parameters = softmax_parameters(node, variant, scale, lambda: self.unit(node),
                                            self.shares)
        except ModelError:
            raise
        except ValueError as error:
            raise ModelError(f"node {node.name!r}: {error}") from None
        return Softmax(name=node.name, input=node.input, variant=variant,
                       bits=self.bits[node.name], **parameters)

    def _context(self, node):
        """Rescale A.V, or give the numerator of its row factors.

        A row of exponentials still has to be divided by their sum; their scale cancels.
        """
        s = self.scales
        if self.settings["attention"] in EXPONENTIALS:
            factor_bits = self.factor_bits
            mult, shift = self.dyadic(_ratio(s[node.value], s[node.name]), numerator_bits(
                self.bits[node.attention], factor_bits))
        else:
            mult, shift = self.dyadic(_ratio(s[node.attention] * s[node.value], s[node.name]),
                                      self.code_mult_bits)
            factor_bits = None
        return dataclasses.replace(node, bits=self.bits[node.name], mult=mult, shift=shift,
                                   factor_bits=factor_bits)

    def _activation(self, node):
        source, target, bits = (self.scales[node.input], self.scales[node.name],
                                self.bits[node.name])
        if self.settings["gelu"] == "table":
            table = activation_table(node.function, source, target, bits, node.offset or 0.0)
            return dataclasses.replace(node, offset=None, variant="table", bits=bits, table=table)
        if self.settings["gelu"] == "ibert":
            return self._ibert_gelu(node, source, target, bits)
        mult, shift = self.dyadic(
            _ratio(source * np.float32(2.0 ** (1 - _SIGMOID_BITS)), target), self.code_mult_bits)
        return dataclasses.replace(node, variant="published", unit=self.unit(node), bits=bits,
                                   mult=mult, shift=shift)

    def _ibert_gelu(self, node, source, target, bits):
        try:
            constants = gelu_constants(source)
        except ValueError as error:
            raise ModelError(f"node {node.name!r}: {error}") from None
        mult, shift = self.dyadic(_ratio(gelu_scale(source), target), self.code_mult_bits)
        return dataclasses.replace(node, variant="ibert", bits=bits, mult=mult, shift=shift,
                                   constants=constants)

    def _norm(self, node):
        """Quantize a layer norm.

        The path of channels with gamma zero through the root is cut (multiplier 0): the operator's
        ``o`` would not cancel. Their constant is left to the linear layers behind, and so is what
        of beta / gamma is beyond the 32 bits of a bias, which ends at about 2 sqrt(C).
        """
        if self.settings["norm"] == "compared":
            return self._compared_norm(node)
        gamma, beta = node.weight.astype(np.float64), node.bias.astype(np.float64)
        channels = len(gamma) // node.groups
        root, dead = norm_root(channels, self.settings["norm"]), gamma == 0
        ratio = np.divide(beta, gamma, out=np.zeros_like(beta), where=~dead)
        most = _INT32[1] * root / 2.0**30
        kept = np.clip(ratio, -most, most)
        bias = np.floor(kept * 2.0**30 / root).astype(np.int64)
        scale = (gamma * root / 2.0**30).astype(np.float32)
        left = np.where(dead, beta, (ratio - kept) * gamma)
        if left.any():
            self.leave(node, left)
        bits = self.bits[node.name]
        mult, shift = self.dyadic(_ratio(scale, self.scales[node.name]), self.code_mult_bits)
        epsilon = self._epsilon(node) if self.settings["norm"] in _WITH_EPSILON else None
        return Norm(name=node.name, input=node.input, groups=node.groups, bias=bias, bits=bits,
                    variant=self.settings["norm"], mult=mult, shift=shift, epsilon=epsilon)

    def _compared_norm(self, node):
        """Quantize a layer norm without gains and biases: its scale is the step between codes."""
        bits = self.bits[node.name]
        if bits > COMPARED_BITS:
            raise ModelError(f"node {node.name!r}: bits of a norm must be at most {COMPARED_BITS} "
                             f"with norm 'compared' ('normalised' has up to 16), not {bits}")
        return Norm(name=node.name, input=node.input, groups=node.groups, bits=bits,
                    variant="compared", epsilon=self._epsilon(node), share=norm_share(
                        self.scales[node.name], len(node.weight) // node.groups))

    def _epsilon(self, node):
        """Return the epsilon of a norm beside the sum of squares of its input's codes."""
        channels, scale = len(node.weight) // node.groups, float(self.scales[node.input])
        unit = scale * scale / (channels << 2 * NORM_FRACTION)
        epsilon, limit = round(node.eps / unit), (1 << epsilon_bits(channels)) - 1
        if epsilon > limit:
            raise ModelError(f"node {node.name!r}: eps must be at most {limit * unit:.3g} beside "
                             f"an input all within {32768 * scale:.3g}, not {node.eps}")
        return epsilon

    def _add(self, node):
        s = self.scales
        first, second = (self.dyadic(_ratio(s[name], s[node.name]), self.mult_bits)
                         for name in node.inputs)
        return dataclasses.replace(node, bits=self.bits[node.name], mult=first[0], shift=first[1],
                                   other_mult=second[0], other_shift=second[1])

    def _rows(self, node):
        for name in node.sources:
            if name in self.constant:
                self.leave(node, self.constant[name])
        return node

    def _mean(self, node):
        if node.input in self.constant:
            self.leave(node, self.constant[node.input])
        rows = self.float.tensors[node.input].rows // node.groups
        mult, shift = self.dyadic(_ratio(self.scales[node.input], self.scales[node.name]) / rows,
                                  self.code_mult_bits)
        return dataclasses.replace(node, bits=self.bits[node.name], mult=mult, shift=shift)

    def leave(self, node, values):
        """Note real values that `node` does not deliver; only layers with a bias can add them."""
        for reader in self.float.consumers[node.name]:
            alone = isinstance(reader, Rows) and len(reader.sources) == 1
            if not (alone or isinstance(reader, Mean)
                    or (isinstance(reader, Linear) and reader.residual != node.name)):
                raise GraphError(f"node {node.name!r}: channels with a gamma of zero, or far below "
                                 f"beta, must be read by linear nodes, not by {reader.name!r} "
                                 f"({reader.kind})")
        if node.name in self.float.outputs:
            raise GraphError(f"node {node.name!r}: channels with a gamma of zero, or far below "
                             f"beta, must not leave the network")
        self.constant[node.name] = values

    def width(self, out_bits):
        """Return the bits of the multipliers of a result of `out_bits`."""
        return self.code_mult_bits if out_bits <= CODE_BITS else self.mult_bits

    dyadic = staticmethod(multipliers)

    def unit(self, node):
        """Return the ShiftExp unit of `node`: the integer image of 1."""
        unit = -exp_constant(self.scales[node.input], UNIT_FACTOR[type(node)])
        if not 1 <= unit <= MAX_UNIT:
            raise ModelError(f"node {node.name!r}: unit must be from 1 to {MAX_UNIT}, not {unit}")
        return unit


def _ratio(source, target):
    """Return the float64 ratio of two float32 scales."""
    return np.asarray(source, dtype=np.float64) / float(target)
