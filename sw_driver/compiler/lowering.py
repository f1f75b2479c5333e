"""Layers as operations: tensors, parameters, tiles and column groups, for some rows at a time."""

import itertools
from dataclasses import dataclass
from math import lcm

import numpy as np

from systola.hw.contract.isa import Flag, Opcode
from systola.sw_driver.compiler.layout import FactorBlock, ParamBlock, Tensor, View
from systola.sw_driver.compiler.operation import Beats, Operation
from systola.sw_driver.compiler.payloads import (
    code_beats,
    codebook,
    param_beats,
    param_records,
    table_beats,
    tile_words,
    to_beats,
    words_of,
)

__all__ = ["Loaded", "Lowering", "Place", "Stored", "finish", "split"]

_NORM_SHARE = 5
"""Parameters of a norm are loaded once for all chunks if they take at most this part of memory."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A LOAD whose data the driver replaces: rows from `row` on of the input `name`."""

    name: str
    op: Operation
    row: int
    rows: int
    channels: int
    planes: int


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a result channels go that lie from `lane` on in the rows of a view."""

    columns: int
    row: int
    head: int | None = None
    column: int = 0
    lane: int = 0


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The STORE of a view as a part of a result; for `digit_bits`, see `OutputPart`."""

    op: Operation
    view: View
    place: Place
    digit_bits: int


def finish(steps):
    """Run a generator that emits operations between its yields; returns what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def split(total, count):
    """Return (first, length) of `count` nearly equal parts of `total`, none of them empty."""
    edges = [total * i // count for i in range(count + 1)]
    return [(low, high - low) for low, high in itertools.pairwise(edges) if low < high]


class Lowering:
    """Builds the operations of one network for one configuration.

    Parameters
    ----------
    config : AcceleratorConfig
        The accelerator.
    param_words : int
        Most parameter words one MATMUL may use; wider layers are split.
    trace : bool
        Whether to store every named tensor.
    narrow : set of str
        Linear layers that are multiplied in the second precision, see `narrow_nodes`.

    Attributes
    ----------
    ops : list of Operation
        The program without BEGIN and END.
    inputs : list of Loaded
        In the order of the program.
    outputs : dict of name to (shape, list of Stored)
        Results.
    macs, work, passes : int
        Multiply-accumulates of the network, each once; those, narrow ones half; cycles of the
        array's tile passes.
    """

    def __init__(self, config, *, param_words, trace=False, narrow=frozenset()):
        self.config, self.param_words, self.trace = config, param_words, trace
        self.narrow = narrow
        self.ops, self.inputs, self.outputs = [], [], {}
        self.macs = self.work = self.passes = 0
        self._tiles = {}
        self._stores = []
        self._norm_params = {}
        self.biases = {}  # of scores, by what they are of: tensors that are loaded
        self.hold = []  # what the next layer's parameters and weights wait for

    def words(self, channels):
        """Return the words of a row of `channels` channels."""
        return words_of(channels, self.config)

    def tensor(self, name, rows, channels, *, planes=1):
        """Return a new tensor for rows of `channels` channels."""
        return Tensor(name, rows, self.words(channels), planes)

    def attention(self, name, rows, keys):
        """Return a new tensor for rows of attention; that of codes is ``over`` the scores."""
        if not self.config.levels:
            return self.tensor(name, rows, keys, planes=self.config.attention_digits)
        words = self.words(keys)
        return Tensor(name, rows, self.config.attention_words(words),
                      over=Tensor(name, rows, words))

    def region(self, view, channels):
        """Return the fields of a row of `view` that holds `channels` channels."""
        return {"words": view.words,
                "lanes_last": view.lane + channels - (view.words - 1) * self.config.rows}

    def append(self, op):
        """Append an operation and return it."""
        self.ops.append(op)
        return op

    def load(self, view, words):
        """Load `words` (n, R) into `view`, whole rows of a tensor."""
        return self.append(Operation(
            Opcode.LOAD, view.tensor.name, writes={"": view},
            fields={"rows": view.rows, "words": view.tensor.stride},
            stream=Beats(len(words), lambda: to_beats(words, self.config))))

    def copy(self, name, source, out):
        """Append a COPY of one plane of view `source` to view `out` of as many rows and words."""
        assert (source.rows, source.words) == (out.rows, out.words)
        assert source.planes == out.planes == 1
        return self.append(Operation(
            Opcode.COPY, name, reads={"": source}, writes={"to_": out},
            fields={"rows": source.rows, "words": source.words}))

    def load_table(self, name, table, entries):
        """Load one of the tables."""
        data = table_beats(entries, self.config)
        self.append(Operation(Opcode.LOAD_TABLE, name, table_write=table,
                              fields={"table": table}, stream=Beats(len(data), lambda: data)))

    def declare(self, name, shape):
        """Give a result its shape and its place among the results."""
        self.outputs.setdefault(name, (tuple(shape), []))

    def store(self, name, view, *places, digit_bits=0):
        """Store `view` as parts of result `name`."""
        words = view.words * view.planes
        assert view.planes == 1 or view.words == view.tensor.words
        op = self.append(Operation(Opcode.STORE, name, reads={"": view},
                                   fields={"rows": view.rows, "words": words}))
        self.outputs[name][1].extend(
            Stored(op=op, view=view, place=place, digit_bits=digit_bits) for place in places)

    def store_traced(self, name, view, shape, place, digit_bits=0):
        """Store `view` when tracing."""
        if self.trace:
            self.declare(name, shape)
            self.store(name, view, place, digit_bits=digit_bits)

    def store_later(self, name, view, columns, row):
        """Store `view` between the next MATMULs, in pieces that their weights can wait for."""
        rows = max(self.store_room(view.rows) // (view.words * view.planes), 1)
        self._stores += [(name, view.cut(low, count), Place(columns=columns, row=row + low))
                         for low, count in split(view.rows, -(-view.rows // rows))]

    def store_room(self, rows):
        """Return the cycles for which the weight FIFO feeds passes of `rows` rows."""
        return self.config.weight_fifo // self.config.cols * rows * 3 // 4

    def store_rest(self):
        """Append all pieces of `store_later` that are left."""
        while self._stores:
            self.store(*self._stores.pop(0))

    def params(self, name, bias, mult, shift, *, words=None, after=()):
        """Load parameter records."""
        config = self.config
        records = param_records(bias, mult, shift)
        count = words or -(-len(records) // config.lanes)
        block = ParamBlock(name, count)
        self.append(Operation(
            Opcode.LOAD_PARAMS, name, loads=block, after=list(after),
            stream=Beats(count * config.param_beats,
                         lambda: param_beats(records, count, config))))
        return block

    def broadcast_params(self, name, mult, shift, after=()):
        """Load one parameter word with the same record in all lanes."""
        lanes = self.config.lanes
        return self.params(name, 0, np.full(lanes, mult), np.full(lanes, shift), after=after)

    def factors(self, name, rows):
        """Return row factors for `rows` rows, None if attention is as published."""
        return FactorBlock(name, rows) if self.config.factor_depth else None

    def matmul(self, name, act, out, feed, params, *, channels, bits, flags=0, residual=None,
               res_mult=0, res_shift=0, factors=None, act_words=None):
        """Append a MATMUL and the operation that feeds it; returns the MATMUL.

        `act`, `out` and `residual` are views of equal rows; `feed` makes the feeding operation.
        With `act_words`, those of `act` are packed ones of so many.
        """
        fields = {"rows": act.rows, "act_words": act_words or act.words, "digits": act.planes,
                  **self.region(out, channels), "out_group": out.lane // self.config.lanes,
                  "out_bits": bits}
        reads = {"act_": act}
        if factors is None:
            fields["factor_base"] = 0
        else:
            flags |= Flag.ROW_SCALE
        if residual is None:
            fields |= dict.fromkeys(("res_base", "res_stride", "res_plane", "res_mult",
                                     "res_shift"), 0)
        else:
            reads["res_"] = residual
            flags |= Flag.RESIDUAL
            fields |= {"res_mult": int(res_mult), "res_shift": int(res_shift)}
        op = self.append(Operation(
            Opcode.MATMUL, name, reads=reads, writes={"out_": out},
            fields=fields | {"flags": int(flags)}, params=params, takes=factors))
        self.append(feed())
        if self._stores:
            self.store(*self._stores.pop(0))
        return op

    def fetch(self, name, source, channels, flags=0):
        """Return a maker of a FETCH of all rows of `source`."""
        fields = {"rows": source.rows, "flags": int(flags), **self.region(source, channels)}
        return lambda: Operation(Opcode.FETCH, name, reads={"": source}, fields=fields)

    def tile_columns(self, name):
        """Return the columns of a tile of linear layer `name`."""
        return self.config.tile_columns(narrow=name in self.narrow)

    def count_passes(self, channels, depth, rows, digits=1, tile=None):
        """Count the passes of a product (rows, depth) x (depth, channels) done in one piece."""
        tiles = -(-channels // (tile or self.config.cols))
        self.passes += tiles * self.words(depth) * digits * rows

    def count_linear(self, name, layer, rows):
        """Count the passes of linear layer `name`, as `layer` has it."""
        self.count_passes(*layer.weight.shape, rows, tile=self.tile_columns(name))

    def column_groups(self, channels, tile, most=None):
        """Return (first, count) of the channels that one MATMUL computes, on whole words.

        A group has the parameters that fit, and whole tiles if it can.
        """
        config = self.config
        limit = min(self.param_words * config.lanes, most or channels)
        limit = max(limit // config.rows, 1)
        unit = lcm(config.rows, tile) // config.rows
        unit = unit if unit <= limit else 1
        units = -(-self.words(channels) // unit)
        parts = split(units, -(-units // (limit // unit)))
        size = unit * config.rows
        return [(low * size, min(count * size, channels - low * size)) for low, count in parts]

    def linear(self, *operands, **options):
        """Append a linear layer at once, see `linear_steps`; returns the last MATMUL."""
        return finish(self.linear_steps(*operands, **options))

    def linear_steps(self, name, layer, act, out, *, residual=None, after=(), most=None,
                     each=None):
        """Append a linear layer from view `act` to view `out`; yields before each MATMUL.

        Parameters
        ----------
        name : str
            Result.
        layer : Linear
            Weights and requantization, in the lane orders of `act` and `out`. Layers of the same
            name have the same weights.
        act, out, residual : View
            Operands; `residual` may be `out`.
        after : list of Operation
            MATMULs whose result `act` is; they are long done when the parameters are loaded.
        most : int
            Most columns of a group.
        each : callable
            Called as ``each(first, channels)`` after each group.
        """
        config = self.config
        after, self.hold = (*after, *self.hold), []
        rescale = {} if residual is None else {"res_mult": layer.res_mult,
                                               "res_shift": layer.res_shift}
        narrow, tile = name in self.narrow, self.tile_columns(name)
        book = codebook(layer.weight) if config.weight_codes and not narrow else None
        feeder = (Opcode.LOAD_NARROW if narrow else Opcode.LOAD_WEIGHTS if book is None
                  else Opcode.LOAD_CODES)
        flags = (Flag.SYMMETRIC if layer.symmetric else 0) | (Flag.NARROW if narrow else 0)
        for low, count in self.column_groups(len(layer.weight), tile, most):
            yield
            part = slice(low, low + count)
            params = self.params(
                name, layer.bias[part], layer.mult[part], layer.shift[part],
                words=-(-count // tile) * tile // config.lanes, after=after)
            beats = self._tile_beats(layer, part, book, narrow=narrow)
            word, words = low // config.rows, self.words(count)
            op = self.matmul(
                name, act, out.columns(word, words),
                lambda beats=beats: Operation(feeder, name, stream=beats), params,
                channels=count, bits=layer.bits, **rescale, flags=flags,
                residual=None if residual is None else residual.columns(word, words))
            if each is not None:
                each(low, count)
        return op

    def _tile_beats(self, layer, part, book, *, narrow):
        """Return the beats of some rows of the weights, made once however often they are sent.

        Of codes if there is a `book`.
        """
        key = layer.name, part.start, part.stop
        if key not in self._tiles:
            rows, tile = layer.weight[part], self.config.tile_columns(narrow=narrow)
            count = -(-len(rows) // tile) * self.config.cols * self.words(rows.shape[1])
            if book is not None:
                count = self.config.codebook_beats + count // 2

            def beats():
                words = tile_words(rows, self.config, narrow=narrow)
                return (to_beats(words, self.config) if book is None
                        else code_beats(words, book, self.config))

            self._tiles[key] = Beats(count, beats)
        return self._tiles[key]

    def vector(self, opcode, name, source, out, channels, *, params=None, tables=(),
               factors=None, keys=None, **fields):
        """Append a VECTOR operation from view `source` to view `out`, and return it.

        A SHIFTMAX is of `keys`: those of the first row, and how many more each other one has.
        """
        if opcode is Opcode.SHIFTMAX:
            first, step = keys
            words = self.words(first)
            fields |= {"key_words": words, "key_last": first - (words - 1) * self.config.rows,
                       "key_step": step}
            if factors is None:
                fields["factor_base"] = 0
        return self.append(Operation(
            opcode, name, reads={"src_": source}, writes={"dst_": out}, params=params,
            gives=factors, tables_read=tuple(tables),
            fields={"rows": source.rows, **self.region(source, channels), **fields}))

    def mean(self, name, source, out, channels, *, mult, shift, bits):
        """Append a MEAN of the rows of `source` to the one row of view `out`, and return it.

        Results are the sums times ``mult / 2**shift``, of `bits`. Two planes are 16 bits.
        """
        assert (out.rows, out.planes) == (1, 1 + (bits > 8))
        return self.vector(Opcode.MEAN, name, source, out, channels, wide=source.planes - 1,
                           mult=int(mult), shift=int(shift), out_bits=bits)

    def norm(self, node, source, out, channels):
        """Append a LAYERNORM of the rows of view `source`, and return it."""
        epsilon = int(node.epsilon or 0)
        scaling = {"param_base": 0, "share": int(node.share)} if node.share is not None else {
            "params": self._norm_block(node), "share": 0}
        return self.vector(Opcode.LAYERNORM, node.name, source, out, channels, out_bits=node.bits,
                           **scaling, epsilon_low=epsilon % 2**32, epsilon_high=epsilon >> 32)

    def _norm_block(self, node):
        """Return the parameters of a layer norm, loaded once if they are a small part of all."""
        params = self._norm_params.get(node.name)
        if params is None:
            params = self.params(node.name, node.bias, node.mult, node.shift)
            if params.count * _NORM_SHARE <= self.config.param_depth:
                self._norm_params[node.name] = params
        return params
