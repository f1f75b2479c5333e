"""An integer network as the real numbers that it stands for, and the integers of such numbers.

Weights, biases, gammas, betas, constants and the scales of tensors are numbers that training can
change. What cannot change with them (units of exponentials, tables of softmax, bits, codebooks)
stays as quantization left it. Integers of unchanged numbers are those of the network, all of them.
"""

import dataclasses

import numpy as np

from systola.files.tensors import ModelError
from systola.hw.contract.numbers import MAX31, NORM_FRACTION, epsilon_bits
from systola.model.graph.nodes import (
    Activation,
    Constant,
    Context,
    Input,
    Linear,
    Norm,
    Scores,
    Softmax,
)
from systola.model.operators.norm_codes import norm_share
from systola.model.quantization.activation_table import activation_table, function_values
from systola.model.quantization.grid import CodebookGrid, UniformGrid
from systola.model.quantization.scales import multipliers, norm_root, tied_tensors

__all__ = ["TRAINED", "RealNetwork"]

TRAINED = {Linear: ("weight", "bias"), Norm: ("weight", "bias"), Constant: ("values",),
           Scores: ("bias_table",)}
"""By the class of a node, its parameters that can be trained, by the names of a float network."""

_MOST_MOVED = np.log(8.0)
"""A scale stays within this factor, up or down, of what quantization chose."""

_TABLE_CODES = 2.0**16
"""More codes than a constant of an activation can be."""


class RealNetwork:
    """The real numbers of an integer network, float64, and the way back.

    Parameters
    ----------
    network : Graph
        The integer network, of one image.

    Attributes
    ----------
    parameters : dict of (str, str) to float64 array
        By node and name in `TRAINED`.
    steps : dict of str to float64 array (N,)
        Real value of one code of the weights of each output channel, by linear node.
    leaders : dict of str to str
        For each tensor whose scale can change, the first of those that have the same one.
    gains : dict of str to float
        What a `Scores` node multiplies products of real queries and keys by.
    offsets : dict of str to float
        What an `Activation` node adds to its function.
    epsilons : dict of str to float
        Of every `Norm`, in squares of real numbers.

    Raises
    ------
    ModelError
        If it is a float network, or does not know the scale of a tensor.
    """

    def __init__(self, network):
        if not network.is_integer or network.images != 1:
            raise ModelError("network must be an integer one of one image, as `systola quantize` "
                             "makes it")
        missing = next((node.name for node in network.nodes if node.name not in network.scales),
                       None)
        if missing is not None:
            raise ModelError(f"network must know the scale of every tensor to be trained, not all "
                             f"but that of {missing!r}; quantize the checkpoint again")
        self.network = network
        self.leaders = _leaders(network)
        self.parameters, self.steps, self.gains, self.offsets, self.epsilons = {}, {}, {}, {}, {}
        for node in network.nodes:
            read = getattr(self, f"_read_{node.kind}", None)
            if read:
                read(node, network.scales)

    # --- From integers to real numbers ---

    def _read_constant(self, node, scales):
        self.parameters[node.name, "values"] = node.values * scales[node.name]

    def _read_linear(self, node, scales):
        step = _ratio(node) * scales[node.name] / scales[node.input]
        self.steps[node.name] = step
        self.parameters[node.name, "weight"] = node.weight * step[:, None]
        self.parameters[node.name, "bias"] = node.bias * (step * scales[node.input])

    def _read_scores(self, node, scales):
        self.gains[node.name] = float(_ratio(node) * scales[node.name] / (
            scales[node.query] * scales[node.key]))
        if node.bias_index is not None:
            self.parameters[node.name, "bias_table"] = node.bias_table * (
                _ratio(node, "bias_mult", "bias_shift") * scales[node.name])

    def _read_activation(self, node, scales):
        self.offsets[node.name] = _offset(node, scales) if node.variant == "table" else 0.0

    def _read_norm(self, node, scales):
        channels = self._channels(node)
        if node.variant != "compared":  # whose gains and biases the layers behind have
            gain = _ratio(node) * scales[node.name]
            self.parameters[node.name, "weight"] = gain * 2.0**30 / norm_root(channels,
                                                                              node.variant)
            self.parameters[node.name, "bias"] = (node.bias + 0.5) * gain  # codes are floors
        unit = _norm_unit(channels, scales[node.input])
        self.epsilons[node.name] = (node.epsilon or 0) * unit

    def _channels(self, node):
        """Return the channels of a norm's groups."""
        return self.network.tensors[node.name].channels // node.groups

    # --- And back ---

    def scales(self, moved):
        """Return the scale of every tensor, float32 as float.

        Parameters
        ----------
        moved : dict of str to float
            By leader, the logarithm of the factor by which its scale has changed; 0 if left out.
        """
        scales = {}
        for name, scale in self.network.scales.items():
            by = moved.get(self.leaders.get(name), 0.0)
            scales[name] = scale if by == 0 else float(np.float32(scale * np.exp(_within(by))))
        return scales

    def weight_steps(self, moved):
        """Return `steps` after changes by such logarithms, (N,) by linear node, 0 if left out."""
        return {name: step if name not in moved else step * np.exp(_within(moved[name]))
                for name, step in self.steps.items()}

    def integer(self, parameters, moved, moved_steps):
        """Return the integer network of real numbers.

        Parameters
        ----------
        parameters : dict of (str, str) to float array
            As `parameters`.
        moved : dict of str to float
            As of `scales`.
        moved_steps : dict of str to float array (N,)
            As of `weight_steps`.

        Returns
        -------
        Graph
            Of the same nodes, bits and variants.

        Raises
        ------
        ModelError
            If a number is not finite, or a scale has moved so far that no multiplier expresses it.
        """
        scales, steps = self.scales(moved), self.weight_steps(moved_steps)
        nodes = []
        for node in self.network.nodes:
            own = {what: parameters[node.name, what] for what in TRAINED.get(type(node), ())
                   if (node.name, what) in parameters}
            if not all(np.isfinite(value).all() for value in own.values()):
                raise ModelError(f"node {node.name!r}: parameters must be finite after a step of "
                                 f"training; a smaller rate keeps them so")
            make = getattr(self, f"_make_{node.kind}", None)
            try:
                nodes.append(make(node, own, scales, steps) if make else node)
            except ValueError as error:
                raise ModelError(f"node {node.name!r}: {error}") from None
        return dataclasses.replace(self.network, nodes=tuple(nodes), scales=scales)

    def _moved(self, scales, name):
        return scales[name] / self.network.scales[name]

    def _make_constant(self, node, own, scales, steps):
        half = 1 << node.bits - 1
        codes = np.clip(np.rint(own["values"] / scales[node.name]), -half, half - 1)
        return dataclasses.replace(node, values=codes.astype(np.int16))

    def _make_linear(self, node, own, scales, steps):
        step = steps[node.name]
        grid = (UniformGrid(node.weight_bits) if node.codebook is None
                else CodebookGrid(node.codebook))
        codes = grid.nearest(own["weight"] / step[:, None]).astype(np.int8)
        bias = _int32(np.rint(own["bias"] / (step * scales[node.input])))
        out = self._moved(scales, node.name)
        ratio = _ratio(node) * (step / self.steps[node.name]) * (
            self._moved(scales, node.input) / out)
        mult, shift = multipliers(ratio, _width(node.mult))
        changed = {"weight": codes, "bias": bias, "mult": mult, "shift": shift}
        if node.residual is not None:
            changed["res_mult"], changed["res_shift"] = multipliers(
                _ratio(node, "res_mult", "res_shift") * (self._moved(scales, node.residual) / out),
                _width(node.res_mult))
        return dataclasses.replace(node, **changed)

    def _make_scores(self, node, own, scales, steps):
        factor = self._moved(scales, node.query) * self._moved(scales, node.key)
        mult, shift = multipliers(_ratio(node) * factor, _width(node.mult))
        changed = {"mult": mult, "shift": shift}
        if own:
            step = _ratio(node, "bias_mult", "bias_shift") * scales[node.name]
            changed["bias_table"] = np.clip(np.rint(own["bias_table"] / step), -2**15,
                                            2**15 - 1).astype(np.int16)
        return dataclasses.replace(node, **changed)

    def _make_context(self, node, own, scales, steps):
        factor = self._moved(scales, node.value) / self._moved(scales, node.name)
        return _rescaled(node, factor)

    def _make_activation(self, node, own, scales, steps):
        source, target = self._moved(scales, node.input), self._moved(scales, node.name)
        if node.variant != "table":
            return _rescaled(node, 1 / target)
        if source == target == 1:
            return node
        return dataclasses.replace(node, table=activation_table(
            node.function, scales[node.input], scales[node.name], node.bits,
            self.offsets[node.name]))

    def _make_norm(self, node, own, scales, steps):
        channels, moved = self._channels(node), self._moved(scales, node.name)
        if node.variant == "compared":
            changed = {} if moved == 1 else {"share": norm_share(scales[node.name], channels)}
        else:
            gain = own["weight"] * (norm_root(channels, node.variant) / 2.0**30)
            gain[node.mult == 0] = 0.0  # channels that quantization cut off stay so
            bias = np.divide(own["bias"], gain, out=np.zeros_like(gain), where=gain != 0)
            mult, shift = multipliers(gain / scales[node.name], _width(node.mult))
            changed = {"bias": _int32(np.floor(bias)), "mult": mult, "shift": shift}
        if node.epsilon is not None:
            # The integer one, which is rounded: so it comes back as it was.
            epsilon = round(node.epsilon / self._moved(scales, node.input) ** 2)
            changed["epsilon"] = min(epsilon, (1 << epsilon_bits(channels)) - 1)
        return dataclasses.replace(node, **changed)

    def _make_add(self, node, own, scales, steps):
        out, changed = self._moved(scales, node.name), {}
        for name, mult, shift in ((node.input, "mult", "shift"),
                                  (node.other, "other_mult", "other_shift")):
            changed[mult], changed[shift] = multipliers(
                _ratio(node, mult, shift) * (self._moved(scales, name) / out),
                _width(getattr(node, mult)))
        return dataclasses.replace(node, **changed)

    def _make_mean(self, node, own, scales, steps):
        return _rescaled(node, self._moved(scales, node.input) / self._moved(scales, node.name))


def _leaders(network):
    """Return the tensors whose scale can change, each with the first of those of the same scale.

    Images keep their codes, softmax its exponentials and its shares, and so do operators with
    exponentials of activations: their scales are units that integers must hit.
    """
    fixed = set()
    for node in network.nodes:
        if isinstance(node, Input):
            fixed.add(node.name)
        elif isinstance(node, Softmax):
            fixed |= {node.input, node.name}
        elif isinstance(node, Activation) and node.variant != "table":
            fixed.add(node.input)
        elif isinstance(node, Context) and node.factor_bits is None:
            fixed.add(node.attention)
    tied = tied_tensors(network)
    return {node.name: tied[node.name][0] for node in network.nodes
            if not fixed.intersection(tied[node.name])}


def _ratio(node, mult="mult", shift="shift"):
    """Return what a multiplier and its shift stand for, float64."""
    return np.ldexp(np.asarray(getattr(node, mult), np.float64), -np.asarray(getattr(node, shift)))


def _width(mult):
    """Return the bits of the longest of some multipliers: those that quantization gave them."""
    return max(int(np.abs(mult).max()).bit_length(), 2)


def _rescaled(node, factor):
    """Return a node with the one multiplier that it has times a factor."""
    mult, shift = multipliers(_ratio(node) * factor, _width(node.mult))
    return dataclasses.replace(node, mult=mult, shift=shift)


def _int32(values):
    return np.clip(values, -MAX31 - 1, MAX31).astype(np.int64)


def _within(moved):
    return np.clip(moved, -_MOST_MOVED, _MOST_MOVED)


def _norm_unit(channels, scale):
    """Return the real square that one code of a norm's epsilon stands for."""
    return scale * scale / (channels << 2 * NORM_FRACTION)


def _offset(node, scales):
    """Return the constant with which a table of an activation's function is the node's.

    Every entry between its ends says within half a code what it is; of all that they leave, the
    middle.
    """
    target, half = scales[node.name], 1 << node.bits - 1
    between = node.table - function_values(node.function, scales[node.input]) / target
    low = (between - 0.5)[node.table > -half].max(initial=-_TABLE_CODES)
    high = (between + 0.5)[node.table < half - 1].min(initial=_TABLE_CODES)
    return float((low + high) / 2 * target)
