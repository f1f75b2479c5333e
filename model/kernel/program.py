"""A network as a list of steps of the kernel, and its tensors as places in one workspace."""

import ctypes
from dataclasses import dataclass

import numpy as np

from systola.model.graph.integer_forward import compute
from systola.model.graph.nodes import Constant, Input
from systola.model.kernel.steps import Unfit, fields_of, is_wide, row_stride, step_of

__all__ = ["Plan", "Program"]

_PLANS = 4
"""Plans, and with them workspaces, that a program has at a time."""

_ALIGNED = 64
_READ_BEHIND = 256
"""Bytes that vectors may read behind a tensor."""


class Program:
    """The steps of a network's nodes, made once.

    Parameters
    ----------
    graph : Graph
        The integer network.
    library : Library
        The compiled kernel.

    Attributes
    ----------
    steps : dict of str to Step
        By node.
    left : dict of str to str
        Why the other nodes are left to the models of their operators.
    """

    def __init__(self, graph, library):
        self.library, self.steps, self.left, self._plans = library, {}, {}, {}
        for node in graph.nodes:
            if isinstance(node, Input | Constant):
                continue
            try:
                self.steps[node.name] = step_of(node, graph, library)
            except Unfit as error:
                self.left[node.name] = str(error)

    def plan(self, graph, keep):
        """Return the `Plan` that keeps the tensors of a set of names."""
        keep = frozenset(keep)
        if keep not in self._plans:
            if len(self._plans) == _PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[keep] = Plan(self, graph, keep)
        return self._plans[keep]


@dataclass(frozen=True)
class _Table:
    """Steps in a row as the kernel reads them, and the arrays that they point to."""

    steps: np.ndarray
    keep: list


class Plan:
    """Where the tensors of a network are, and the calls that compute them.

    A workspace is used by one thread at a time, and again for the next image.
    """

    def __init__(self, program, graph, keep):
        self._library, self._keep, self._spaces = program.library, keep, []
        self._inputs = [node.name for node in graph.inputs]
        self._constants = graph.of(Constant)
        self._types = {name: _dtype(tensor) for name, tensor in graph.tensors.items()}
        self._shapes = {name: tensor.shape for name, tensor in graph.tensors.items()}
        self._strides = {name: row_stride(tensor, program.library) * self._types[name]().itemsize
                         for name, tensor in graph.tensors.items()}
        scratch = max((step.scratch for step in program.steps.values()), default=0)
        self._places, self.bytes = self._arranged(graph, scratch)
        self._calls = self._listed(program, graph)

    def run(self, graph, image, results, index):
        """Compute one image, and put the tensors that are kept into `results`.

        Parameters
        ----------
        graph : Graph
            The network.
        image : dict of str to int array
            Its inputs, within their bits.
        results : dict of str to int64 array
            By name, a leading axis of images.
        index : int
            Where in there.
        """
        views, address = self._space()
        for name in self._inputs:
            views[name][...] = image[name]
        for call in self._calls:
            if isinstance(call, _Table):
                self._library.functions.run_steps(
                    call.steps.ctypes, ctypes.c_int64(len(call.steps)), address)
            else:
                inputs = (views[name][None].astype(np.int64) for name in call.inputs)
                views[call.name][...] = compute(call, graph, *inputs)[0]
        for name in self._keep:
            results[name][index] = views[name]
        self._spaces.append((views, address))

    def _space(self):
        """Return tensors in a workspace that nobody uses now, and its address."""
        try:
            return self._spaces.pop()
        except IndexError:
            memory = np.zeros(self.bytes + _ALIGNED, np.uint8)
            memory = memory[-memory.ctypes.data % _ALIGNED:]
            views = {name: self._view(name, memory) for name in self._places}
            for node in self._constants:
                views[node.name][...] = node.values
            return views, ctypes.c_void_p(memory.ctypes.data)

    def _view(self, name, memory):
        """Return a tensor in a workspace."""
        *heads, rows, _ = self._shapes[name]
        stride, dtype = self._strides[name], self._types[name]
        return np.ndarray(self._shapes[name], dtype, memory, self._places[name],
                          (*(rows * stride for _ in heads), stride, dtype().itemsize))

    def _size(self, name):
        """Return the bytes of a tensor's place."""
        return _rounded(int(np.prod(self._shapes[name][:-1])) * self._strides[name] + _READ_BEHIND)

    def _arranged(self, graph, scratch):
        """Return the place of every tensor, and how many bytes that takes.

        A place is free again when the last reader of its tensor is done; the scratch memory that
        all steps share comes first.
        """
        left = {name: len(readers) for name, readers in graph.consumers.items()}
        places, free, end = {}, [], _rounded(scratch + _READ_BEHIND)
        for node in graph.nodes:
            size = self._size(node.name)
            fits = [gap for gap in free if gap[1] >= size]
            if fits and not isinstance(node, Constant):
                start, length = min(fits, key=lambda gap: gap[1])
                free.remove((start, length))
                if length > size:
                    free.append((start + size, length - size))
                places[node.name] = start
            else:
                places[node.name], end = end, end + size
            done = [name for name in dict.fromkeys(node.inputs) if not _count_down(left, name)]
            done += [node.name] if not graph.consumers[node.name] else []
            for name in done:
                if name not in self._keep and not isinstance(graph.by_name[name], Constant):
                    free = _joined([*free, (places[name], self._size(name))])
        return places, end

    def _listed(self, program, graph):
        """Return the steps in tables, and between them the nodes that have none."""
        calls, run = [], []
        for node in graph.nodes:
            if node.name in program.steps:
                run.append(program.steps[node.name])
            elif node.name in program.left:
                calls += [*([self._table(run)] if run else []), node]
                run = []
        return [*calls, *([self._table(run)] if run else [])]

    def _table(self, steps):
        keep, rows = [], []
        scratch = 0
        for step in steps:
            fields, arrays = self._fields(step, scratch)
            keep += [fields, *arrays]
            rows.append((self._library.address(step.function), fields.ctypes.data))
        return _Table(np.array(rows, np.uint64), keep)

    def _fields(self, step, scratch):
        """Return the parameters of a step as its function reads them, and their arrays."""
        values = {**step.numbers, "scratch": scratch,
                  **{name: self._places[tensor] for name, tensor in step.tensors.items()}}
        if step.places:
            values |= step.places(self._places)
        fields = fields_of(step.function)
        memory, arrays = np.zeros(len(fields), np.int64), []
        for index, (kind, name) in enumerate(fields):
            value = values.pop(name, 0)
            if kind == "f64":
                memory.view(np.float64)[index] = value
            elif kind == "i64":
                memory[index] = value
            elif not isinstance(value, int):
                array = np.ascontiguousarray(value)
                arrays.append(array)
                memory[index] = array.ctypes.data
        if values.keys() - {"scratch"}:
            raise TypeError(f"{step.function} has no field {', '.join(sorted(values))}")
        return memory, arrays


def _dtype(tensor):
    """Return the type of a tensor's numbers in the workspace."""
    if tensor.stage == "exponentials":
        return np.uint16 if is_wide(tensor) else np.uint8
    if tensor.bits > 16:  # of attention that only models make and read
        return np.int32
    return np.int16 if is_wide(tensor) else np.int8


def _rounded(size):
    return -(-size // _ALIGNED) * _ALIGNED


def _count_down(left, name):
    left[name] -= 1
    return left[name]


def _joined(gaps):
    """Return free pieces of memory, those that touch as one."""
    joined = []
    for start, length in sorted(gaps):
        if joined and sum(joined[-1]) == start:
            joined[-1] = joined[-1][0], joined[-1][1] + length
        else:
            joined.append((start, length))
    return joined
