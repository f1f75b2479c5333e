"""An integer network as a PyTorch module: integers forward, gradients of real numbers backward."""

import numpy as np
import torch
from torch import nn

from systola.files.tensors import ModelError
from systola.model.graph.attention_nodes import EXPONENTIALS
from systola.model.graph.nodes import Constant, Linear, Norm, Rows, Softmax
from systola.model.kernel.engine import forward as integer_forward
from systola.model.training.range_observer import RangeObserver
from systola.model.training.real_network import TRAINED, RealNetwork
from systola.model.training.straight_through import codes_for, values_for
from systola.model.training.surrogates import surrogate
from systola.model.training.training_settings import SCALES

__all__ = ["TrainedNetwork"]


class TrainedNetwork(nn.Module):
    """A module whose tensors are those of an integer network, bit for bit.

    At every change of a parameter the integer network is made of them anew
    (`systola.model.training.real_network.RealNetwork`) and computed by
    `systola.model.kernel.engine.forward`: its codes, times their scales, are the values of all
    tensors here. Real arithmetic on these values gives the gradients.

    Parameters
    ----------
    network : Graph
        The integer network that training starts from.
    scales : str
        One of `systola.model.training.training_settings.SCALES`.
    engine : str
        What computes the integers; they do not depend on it.
    threads : int, optional
        Images that are computed at the same time, by default as many as there are processors.

    Attributes
    ----------
    frozen : bool
        Whether scales stay as they are from now on.
    gauges : dict of str to RangeObserver
        Of tracked scales, by the first of the tensors of a scale.

    Raises
    ------
    ModelError
        If it is no integer network of one image, or `scales` is none of those.
    """

    def __init__(self, network, *, scales="learned", engine="auto", threads=None):
        super().__init__()
        if scales not in SCALES:
            raise ModelError(f"scales must be {' or '.join(map(repr, SCALES))}, not {scales!r}")
        self._real, self._engine, self._threads = RealNetwork(network), engine, threads
        self.frozen = scales == "fixed"
        learned = scales == "learned"
        for (name, what), value in self._real.parameters.items():
            # A bias has more digits than float32 as soon as it is a code of more than 24 bits.
            wide = value.ndim == 1
            self._register(name, what, nn.Parameter(
                torch.from_numpy(value.copy()).to(torch.float64 if wide else torch.float32)))
        for name, step in self._real.steps.items():
            moved = torch.zeros(len(step), dtype=torch.float64)
            self._register(name, "step", nn.Parameter(moved, requires_grad=learned))
        for name in dict.fromkeys(self._real.leaders.values()):
            moved = torch.zeros((), dtype=torch.float64)
            self._register(name, "scale", nn.Parameter(moved, requires_grad=learned))
        self.gauges = {name: RangeObserver() for name in dict.fromkeys(
            self._real.leaders.values())} if scales == "tracked" else {}
        self._made, self._versions = None, None

    def _register(self, name, what, parameter):
        self.register_parameter(_key(name, what), parameter)

    def of(self, name, what):
        """Return a parameter of a node: one of `TRAINED`, or ``step`` or ``scale``, or None."""
        return self._parameters.get(_key(name, what))

    def kinds(self):
        """Return the parameters that are trained by what they are.

        Returns
        -------
        dict of str to list of Parameter
            ``matrices`` (weights), ``vectors`` (all other numbers of the float network) and
            ``scales``.
        """
        found = {"matrices": [], "vectors": [], "scales": []}
        for key, parameter in self.named_parameters():
            if parameter.requires_grad:
                what = key.rpartition("/")[2]
                found["scales" if what in ("step", "scale") else
                      "matrices" if what == "weight" and parameter.ndim == 2 else
                      "vectors"].append(parameter)
        return found

    def freeze(self):
        """Leave all scales as they are from now on."""
        self.frozen = True
        for key, parameter in self.named_parameters():
            if key.rpartition("/")[2] in ("step", "scale"):
                parameter.requires_grad_(False)
                parameter.grad = None

    def integer(self):
        """Return the integer network that the module is now, a `Graph`.

        Raises
        ------
        ModelError
            If a parameter is not finite any more.
        """
        versions = tuple(parameter._version for parameter in self.parameters())
        if versions != self._versions:
            self._made = self._real.integer(
                {place: _array(self.of(*place)) for place in self._real.parameters},
                {name: float(self.of(name, "scale").detach()) for name in set(
                    self._real.leaders.values())},
                {name: _array(self.of(name, "step")) for name in self._real.steps})
            self._versions = versions
        return self._made

    def forward(self, codes):
        """Return the network's first output, real numbers: its integers times their scale.

        Parameters
        ----------
        codes : dict of str to int array
            Input codes by name, (B, rows, channels).

        Returns
        -------
        Tensor
            float32, (B, *shape of the output).
        """
        graph = self.integer()
        if not torch.is_grad_enabled():
            name = graph.outputs[0]
            exact = integer_forward(graph, codes, keep=[name], engine=self._engine,
                                    threads=self._threads)
            return self._tensor(exact[name]) * np.float32(graph.scales[name])
        return self.tensors(codes)[graph.outputs[0]]

    def tensors(self, codes):
        """Return all tensors by name, with gradients: what `forward` returns one of."""
        graph = self.integer()
        kept = [node.name for node in graph.nodes if node.inputs and not isinstance(node, Rows)]
        exact = integer_forward(graph, codes, keep=kept, engine=self._engine,
                                threads=self._threads)
        steps = self._real.weight_steps({name: _array(self.of(name, "step"))
                                         for name in self._real.steps})
        values = {}
        for node in graph.nodes:
            name, scale = node.name, np.float32(graph.scales[node.name])
            if not node.inputs and not isinstance(node, Constant):
                values[name] = self._tensor(codes[name]) * scale
                continue
            real = surrogate(node, graph, self._given(node, steps),
                             *(values[source] for source in node.inputs))
            if isinstance(node, Rows):
                values[name] = real
            elif isinstance(node, Softmax):
                values[name] = values_for(real, self._shares(node, exact.pop(name), scale))
            else:
                found = node.values[None] if isinstance(node, Constant) else exact.pop(name)
                values[name] = self._result(node, graph, real, self._tensor(found), scale)
        return values

    def _result(self, node, graph, real, codes, scale):
        """Return a node's codes with the gradient of real arithmetic, and watch its range."""
        leader, half = self._real.leaders.get(node.name), 1 << graph.tensors[node.name].bits - 1
        moved = None if leader is None else self.of(leader, "scale")
        if leader in self.gauges and self.training and not self.frozen:
            by = self.gauges[leader].update(float(real.detach().abs().max()))
            with torch.no_grad():
                moved.fill_(by)
        low = -half + (getattr(node, "symmetric", False) or (
            isinstance(node, Norm) and node.variant == "compared"))
        return codes_for(real, moved, codes, self._number(scale), low, half - 1)

    def _shares(self, node, codes, scale):
        """Return the shares of attention that a softmax's integers are."""
        codes = self._tensor(codes)
        if node.variant in EXPONENTIALS:
            return codes / codes.sum(dim=-1, keepdim=True)
        return codes * scale

    def _given(self, node, steps):
        """Return the real parameters of a node for its real arithmetic."""
        name = node.name
        given = {what: self.of(name, what) for what in TRAINED.get(type(node), ())
                 if self.of(name, what) is not None}
        given = {what: value.float() for what, value in given.items()}
        if isinstance(node, Linear):
            top = (1 << node.weight_bits - 1) - 1
            if node.codebook is not None:
                top = int(np.abs(node.codebook).max())
            given["weight"] = codes_for(
                given["weight"], self.of(name, "step"), self._tensor(node.weight),
                self._tensor(steps[name])[:, None], -top, top)
        elif isinstance(node, Norm) and node.mult is not None:
            alive = self._tensor(node.mult != 0)
            given = {what: value * alive for what, value in given.items()}
        elif isinstance(node, Constant):
            given["values"] = given["values"][None]
        for what, found in (("gain", self._real.gains), ("offset", self._real.offsets),
                            ("epsilon", self._real.epsilons)):
            if name in found:
                given[what] = found[name]
        return given

    def _tensor(self, array):
        return torch.from_numpy(np.asarray(array, np.float32)).to(self._device)

    def _number(self, value):
        return torch.tensor(float(value), dtype=torch.float32, device=self._device)

    @property
    def _device(self):
        return next(self.parameters()).device


def _key(name, what):
    return f"{name}/{what}".replace(".", "/")


def _array(parameter):
    return parameter.detach().cpu().double().numpy()
