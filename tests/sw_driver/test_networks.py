"""Networks of every form that the nodes allow: what is compiled equals the integer model.

What the accelerator cannot do is refused in one line that names the node.
"""

import dataclasses
import itertools
import re

import numpy as np
import pytest

from systola.hw.contract.config import PUBLISHED, AcceleratorConfig
from systola.hw.contract.isa import Opcode
from systola.model.data.synthetic import (
    random_codes,
    random_float_text,
    random_float_vit,
    random_tokens,
    random_vit,
)
from systola.model.graph.graph import Graph
from systola.model.graph.integer_forward import forward
from systola.model.graph.masks import causal_counts, masked
from systola.model.graph.nodes import (
    Activation,
    Add,
    Constant,
    Context,
    Input,
    Linear,
    Norm,
    Rows,
    Scores,
    Softmax,
)
from systola.model.quantization.quantize import quantize
from systola.sim.machine.machine import Machine
from systola.sw_driver.compiler import compiler, plan
from systola.sw_driver.compiler.attention import Attention
from systola.sw_driver.compiler.compiler import CompileError, compile_network
from systola.sw_driver.compiler.encoder_pipeline import EncoderPipeline
from systola.sw_driver.program.image import decode_outputs
from tests.settings import ACCURATE

SMALL = {"channels": 12, "heads": 2, "blocks": 2, "hidden": 18, "classes": 5, "tokens": 9,
         "patch_dim": 5}
TINY = AcceleratorConfig(rows=6, cols=4, lanes=2, token_depth=8, banks=2, bank_depth=1024,
                         weight_fifo=8, stream_fifo=8, queue_depth=4, param_depth=64, max_row=64,
                         **PUBLISHED)


# --- Graphs built by hand ---


class Builder:
    """Makes integer nodes with random parameters of sensible size, one after the other.

    Every method returns the name of its node.
    """

    def __init__(self, seed=0, deferred=False, table=False):
        self.rng, self.nodes, self.tensors = np.random.default_rng(seed), [], {}
        self.deferred, self.table = deferred, table

    def add(self, node):
        self.tensors[node.name] = node.tensor(*(self.tensors[name] for name in node.inputs))
        self.nodes.append(node)
        return node.name

    def graph(self, *outputs):
        return Graph(nodes=tuple(self.nodes), outputs=outputs)

    def input(self, name="x", rows=7, channels=12, bits=16):
        return self.add(Input(name=name, rows=rows, channels=channels, bits=bits))

    def constant(self, name, rows=7, channels=12):
        values = self.rng.integers(-2**12, 2**12, (rows, channels)).astype(np.int16)
        return self.add(Constant(name=name, values=values, bits=16))

    def linear(self, name, source, channels=12, residual=None, bits=16, symmetric=False):
        tensor = self.tensors[source]
        weight = self.rng.integers(-127, 128, (channels, tensor.channels)).astype(np.int8)
        magnitude = tensor.bits + 7 + np.log2(tensor.channels) / 2 - 2
        extra = {} if residual is None else {
            "res_mult": np.array(int(self.rng.integers(2**9, 2**10))), "res_shift": np.array(10)}
        return self.add(Linear(
            name=name, input=source, residual=residual, weight=weight, bits=bits, weight_bits=8,
            bias=self.rng.integers(-2000, 2000, channels).astype(np.int32),
            mult=self.rng.integers(2**18, 2**19, channels).astype(np.int32), symmetric=symmetric,
            shift=np.full(channels, 18 + max(round(magnitude) - bits + 1, 0), np.uint8), **extra))

    def norm(self, name, source, bits=8):
        channels = self.tensors[source].channels
        return self.add(Norm(
            name=name, input=source, bits=bits, variant="published",
            bias=self.rng.integers(-2**28, 2**28, channels).astype(np.int32),
            mult=self.rng.integers(-2**20, 2**20, channels).astype(np.int32),
            shift=np.full(channels, 20 + 30 - 2 - (bits - 1), np.uint8)))

    def gelu(self, name, source, bits=8):
        if self.table:
            table = self.rng.integers(-2**(bits - 1), 2**(bits - 1), 256).astype(np.int8)
            return self.add(Activation(name=name, input=source, variant="table", bits=bits,
                                       table=table))
        return self.add(Activation(name=name, input=source, variant="published", bits=bits,
                                   unit=int(self.rng.integers(5, 60)), mult=np.array(2**18 + 1),
                                   shift=np.array(18 + 7 + 8 - bits)))

    def attention(self, name, source, heads=2, width=6, sequences=None, projections=None):
        """Return the context of attention on `source`, of `projections` if they are there."""
        rows, channels = self.tensors[source].rows, heads * width
        qkv = projections or [self.linear(f"{name}.qkv", source, 3 * channels, bits=8,
                                          symmetric=True)] * 3
        at = [place * channels if len(set(qkv)) == 1 else 0 for place in range(3)]
        self.add(Scores(name=f"{name}.scores", query=qkv[0], key=qkv[1], heads=heads,
                        head_dim=width, query_channel=at[0], key_channel=at[1],
                        sequences=tuple(sequences or [(0, rows)]), bits=8,
                        mult=np.array(2**18 + 7), shift=np.array(18 + 8)))
        self.add(Softmax(name=f"{name}.attention", input=f"{name}.scores",
                         variant="deferred" if self.deferred else "published", unit=20,
                         bits=8 if self.deferred else 16))
        extra = {"mult": np.array(2**26), "shift": np.array(24), "factor_bits": 24} \
            if self.deferred else {"mult": np.array(2**18), "shift": np.array(18 + 15)}
        return self.add(Context(name=f"{name}.context", attention=f"{name}.attention",
                                value=qkv[2], value_channel=at[2], head_dim=width, bits=8, **extra))

    def rows(self, name, sources, index):
        sources = (sources,) if isinstance(sources, str) else tuple(sources)
        index = [(0, row) if isinstance(row, int) else row for row in index]
        return self.add(Rows(name=name, sources=sources, index=np.array(index)))

    def attend(self, name, stream, **options):
        """Return a stream after norm, attention and projection."""
        norm = self.norm(f"{name}.norm1", stream)
        context = self.attention(name, norm, **options)
        return self.linear(f"{name}.attn_out", context, self.tensors[stream].channels, stream)

    def mlp(self, name, stream, hidden=15):
        """Return a stream after norm, two layers and their sum with it."""
        norm = self.norm(f"{name}.norm2", stream)
        act = self.gelu(f"{name}.gelu", self.linear(f"{name}.fc1", norm, hidden, bits=8))
        return self.linear(f"{name}.out", act, self.tensors[stream].channels, stream)


def settings(graph):
    """Return the accelerator for a graph."""
    softmax, activation = graph.of(Softmax), graph.of(Activation)
    norm = graph.of(Norm)
    return dataclasses.replace(
        TINY, attention=softmax[0].variant if softmax else "published",
        attention_bits=softmax[0].bits if softmax and softmax[0].variant == "published" else 16,
        gelu=activation[0].variant if activation else "published",
        norm=norm[0].variant if norm else "published")


def check(graph, config=None, *, images=(1, 2, 3), schedules=2, seed=0):
    """Compile for some images, with or without trace, and compare with the model.

    Memory grows with the images: residual streams, keys and values of all are there at once.
    """
    config = config or settings(graph)
    for count in images:
        roomy = dataclasses.replace(config, bank_depth=config.bank_depth << count - 1)
        codes = random_codes(np.random.default_rng(seed + count), graph, count)
        if count == 1:
            codes = {name: value[0] for name, value in codes.items()}
        expected = forward(graph, codes)
        for name in graph.outputs:
            value = expected[name]
            assert np.unique(value).size > min(value.size // 8, 7), f"{name} shows nothing"
        for trace in (False, True) if count == 1 else (count % 2 == 0,):
            program = compile_network(graph, roomy, trace=trace, images=count)
            wanted = {*graph.outputs, *(traced(graph) if trace else ())}
            for schedule in range(schedules):
                outputs = decode_outputs(program, Machine(roomy, schedule).run(
                    program.fill(codes)))
                assert set(outputs) == wanted
                assert [name for name, value in outputs.items()
                        if not np.array_equal(value, expected[name])] == []


def traced(graph):
    """Return the tensors of a trace: all but selected rows, and what is made as rows of others."""
    def is_written(name, rows):
        """Return whether a layer writes its result to `rows`, over nothing but constants."""
        node = graph.by_name[name]
        over = getattr(node, "residual", None)
        return (graph.consumers[name] == [rows] and isinstance(node, Constant | Linear)
                and (over is None or (graph.consumers[over] == [node]
                                      and isinstance(graph.by_name[over], Constant))))

    def is_moved(node):
        return (isinstance(node, Rows) and graph.tensors[node.name].bits > 8
                and all(is_written(name, node) for name in node.sources)
                and len(node.index) == sum(graph.tensors[name].rows for name in node.sources))

    moved = {name for node in graph.of(Rows) if is_moved(node) for name in node.sources}
    return [node.name for node in graph.nodes if node.inputs and node.name not in moved
            and (is_moved(node) or not isinstance(node, Rows))]


def shuffled(graph, seed):
    """Return the network with its nodes in another order that is valid."""
    rng, left, nodes, there = np.random.default_rng(seed), list(graph.nodes), [], set()
    while left:
        ready = [node for node in left if set(node.inputs) <= there]
        node = ready[rng.integers(len(ready))]
        left.remove(node)
        nodes.append(node)
        there.add(node.name)
    return dataclasses.replace(graph, nodes=tuple(nodes))


# --- Vision Transformers in all forms ---


FORMS = {
    "two heads": {"prefixes": 2, "distilled": True}, "registers": {"prefixes": 5},
    "no blocks": {"blocks": 0}, "two heads, no blocks": {"blocks": 0, "prefixes": 2,
                                                         "distilled": True},
}
OPTIONS = {"published": PUBLISHED, "deferred": {**PUBLISHED, "attention": "deferred"},
           "accurate": ACCURATE,
           "few bits": {**PUBLISHED, "weight_bits": 4, "act_bits": 5, "gelu": "table"}}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_vision_transformers(form, options):
    graph = random_vit(np.random.default_rng(2), **{**SMALL, **FORMS[form]}, **OPTIONS[options])
    check(graph, dataclasses.replace(TINY, **OPTIONS[options]), images=(1, 2))




CUTS = {
    "attention": (["embed"], ["blocks.0.attn_out"]),
    "attention on codes": (["blocks.0.norm1", "embed"], ["blocks.0.attn_out"]),
    "MLP": (["blocks.0.attn_out"], ["blocks.0.out"]),
    "MLP on codes": (["blocks.0.norm2", "blocks.0.attn_out"], ["blocks.0.out"]),
    "activation first": (["blocks.0.fc1", "blocks.0.attn_out"], ["blocks.0.out"]),
    "half an MLP": (["blocks.0.gelu", "blocks.0.attn_out"], ["blocks.0.out"]),
    "activation last": (["blocks.0.attn_out"], ["blocks.0.gelu"]),
    "head": (["blocks.1.out"], ["logits"]),
    "classifier": (["norm"], ["logits"]),
    "patches": (["patches"], ["embed"]),
    "patches without tokens": (["patches"], ["patch_embed"]),
    "norm": (["blocks.0.out"], ["blocks.1.norm1"]),
    "from the MLP on": (["blocks.0.attn_out"], ["logits"]),
    "several outputs": (["patches"], ["blocks.0.out", "norm", "logits", "blocks.1.norm2",
                                      "blocks.0.attn_out", "embed"]),
    "selected rows": (["patches"], ["pooled", "blocks.1.attn_out"]),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("cut", CUTS)
def test_parts(cut, options):
    graph = random_vit(np.random.default_rng(3), **SMALL, **OPTIONS[options])
    check(graph.between(*CUTS[cut]), dataclasses.replace(TINY, **OPTIONS[options]), images=(1, 2))


def no_class_token(b):
    x = b.linear("embed", b.input("patches", rows=8, channels=5, bits=8),
                 residual=b.constant("position", rows=8))
    return [b.mlp("m", b.attend("a", x))]


def unequal_sequences(b):
    x = b.attend("a", b.input(rows=14), sequences=[(0, 3), (3, 1), (4, 8), (12, 2)])
    return [b.mlp("m", x)]


def windows(b):
    # Sequences within sequences: windows in one layer, everything in the next.
    x = b.attend("a", b.input(rows=12), sequences=[(row, 4) for row in range(0, 12, 4)])
    return [b.mlp("m", b.attend("b", b.mlp("l", x)))]


def gathered_windows(b):
    # Windows of every other row: rows in another order, made in place.
    x = b.linear("embed", b.input("patches", rows=8, channels=5, bits=8))
    x = b.rows("gathered", x, [*range(0, 8, 2), *range(1, 8, 2)])
    return [b.mlp("m", b.attend("a", x, sequences=[(0, 4), (4, 4)]))]


def rows_in_any_order(b):
    # Selected rows of a stream: in reverse, twice, and one alone; all are only looked at.
    x = b.mlp("m", b.input(rows=9))
    reverse = b.rows("reverse", x, [8, 6, 4, 2, 0])
    twice = b.rows("twice", x, [3, 3, 1, 2, 5, 8])
    again = b.rows("again", reverse, [0, 2, 1])
    return [b.linear("r", b.norm("rn", reverse), 5), b.linear("t", b.norm("tn", twice), 7),
            b.linear("a", b.norm("an", again), 4), again, twice]


def rows_of_codes(b):
    # Rows of several tensors of codes, as an operand and as a result.
    x = b.input(rows=6)
    one, two = b.norm("n", x), b.linear("c", b.input("codes", rows=5, bits=8), 12, bits=8)
    mixed = b.rows("mixed", (one, two), [(0, 5), (1, 0), (1, 1), (0, 0), (1, 4), (0, 1)])
    return [b.linear("y", mixed, 9), mixed]


def two_attentions(b):
    # Two attentions on one stream, one after the other, that is needed after both.
    x = b.input(rows=9)
    one, two = b.attend("a", x), b.attend("b", x, heads=3, width=4)
    return [b.mlp("m", one), b.mlp("n", two), b.linear("y", b.norm("yn", x), 5)]


def two_attentions_in_one_norm(b):
    x = b.input(rows=9)
    norm = b.norm("n", x)
    one = b.linear("one", b.attention("a", norm), 12, x)
    return [b.linear("two", b.attention("b", norm, heads=1), 12, one)]


def norms_before_the_stream_is_overwritten(b):
    # All norms of a stream come first; the first attention writes over it.
    x = b.input(rows=9)
    first, second = b.norm("n", x), b.norm("o", x)
    one = b.linear("one", b.attention("a", first), 12, x)
    return [b.linear("two", b.attention("b", second), 12, one)]


def separate_projections(b):
    n = b.norm("n", b.input(rows=7))
    projections = [b.linear(name, n, 10, bits=bits, symmetric=True)
                   for name, bits in (("q", 8), ("k", 7), ("v", 6))]
    return [b.linear("y", b.attention("a", n, heads=2, width=5, projections=projections), 11)]


def attention_into_codes(b):
    # The projection makes codes that a layer reads, without a residual or a norm.
    context = b.attention("a", b.norm("n", b.input(rows=9)))
    codes = b.linear("p", context, 8, bits=8)
    return [b.linear("y", codes, 5)]


def attention_before_an_activation(b):
    context = b.attention("a", b.norm("n", b.input(rows=9)))
    return [b.linear("y", b.gelu("g", b.linear("p", context, 8, bits=8)), 5)]


def attention_on_attention(b):
    # The second one's operand is what the first one's projection makes.
    codes = b.linear("p", b.attention("a", b.norm("n", b.input(rows=9))), 12, bits=8)
    return [b.linear("y", b.attention("b", codes, heads=3, width=4), 7)]


def attentions_on_codes(b):
    # More attentions of one kind than memory has to be tried for, all on the input.
    x = b.input("codes", rows=7, bits=8)
    return [b.linear(f"y{index}", b.attention(f"a{index}", x), 6) for index in range(4)]


def layers_of_codes(b):
    # No attention and no norm: layers and activations only, some of which overlap.
    x = b.input("codes", rows=10, channels=9, bits=8)
    x = b.gelu("g0", b.linear("l0", x, 14, bits=8))
    x = b.gelu("g1", b.linear("l1", x, 13, bits=8))
    x = b.linear("l3", b.linear("l2", x, 11, bits=8), 7, bits=8)
    return [b.linear("y", b.gelu("g2", x), 8)]


def mixer(b):
    # Layers, norms and residuals without attention, and a stream that ends in codes.
    x = b.linear("embed", b.input("codes", rows=11, channels=5, bits=8), 12)
    x = b.mlp("m1", b.mlp("m0", x))
    return [x, b.linear("codes_out", b.norm("n", x), 6, bits=8)]


def activation_of_a_norm(b):
    return [b.linear("y", b.gelu("g", b.norm("n", b.input(rows=9))), 6)]


def activation_of_a_shared_layer(b):
    # The codes before an activation are needed after it, and by another one.
    codes = b.linear("l", b.input("codes", rows=9, bits=8), 10, bits=8)
    one, two = b.gelu("g", codes), b.gelu("h", codes)
    return [b.linear("y", one, 6), b.linear("z", codes, 5), b.linear("w", two, 4), codes]


def activation_of_rows(b):
    codes = b.linear("l", b.input("codes", rows=9, bits=8), 10, bits=8)
    return [b.linear("y", b.gelu("g", b.rows("r", codes, [1, 4, 5])), 6), b.linear("z", codes, 3)]


def shared_activation(b):
    # Activated codes that two layers read, and that are a result.
    act = b.gelu("g", b.linear("l", b.input("codes", rows=9, bits=8), 10, bits=8))
    return [b.linear("y", act, 6), b.linear("z", act, 4), act]


def constants_alone(b):
    # Constants that a norm, rows and two residuals read.
    x, c = b.input("codes", rows=7, bits=8), b.constant("c")
    one, two = b.linear("one", x, 12, c), b.linear("two", x, 12, c)
    return [one, b.linear("y", b.norm("n", c), 12, two), b.rows("r", c, [6, 0, 3])]


def tokens_between_patches(b):
    # Constants and two layers' rows, mixed.
    c, p = b.constant("c", rows=3), b.linear("p", b.input("x", rows=4, channels=5, bits=8), 12,
                                              b.constant("position", rows=4))
    q = b.linear("q", b.input("y", rows=3, channels=7, bits=8), 12)
    x = b.rows("all", (c, p, q), [(0, 1), (1, 2), (1, 3), (2, 0), (0, 0), (2, 2), (1, 0), (1, 1),
                                  (2, 1), (0, 2)])
    return [b.mlp("m", b.attend("a", x)), x]


def residual_used_twice(b):
    # A stream that two layers add to is not written over by the first.
    x = b.input(rows=8)
    n = b.norm("n", x)
    one, two = b.linear("one", n, 12, x), b.linear("two", n, 12, x)
    return [b.linear("y", b.norm("m", one), 12, two), b.linear("z", b.norm("o", two), 4)]


def residual_of_codes(b):
    # Codes are the sum of a layer and a wide residual.
    x = b.input(rows=8)
    return [b.linear("y", b.linear("c", b.norm("n", x), 12, x, bits=8), 5)]


def residual_of_rows(b):
    # A layer adds to selected rows, which are needed afterwards.
    x = b.mlp("m", b.input(rows=8))
    some = b.rows("some", x, [1, 2, 5, 7])
    y = b.linear("y", b.norm("n", some), 12, some)
    return [y, b.linear("z", b.norm("o", x), 5), b.linear("w", b.norm("p", y), 5)]


def residual_of_other_rows(b):
    # What a layer adds to lies in another order than what it reads.
    x = b.mlp("m", b.input(rows=8))
    codes = b.rows("codes", b.norm("n", x), [6, 5, 4])
    return [b.linear("y", codes, 12, b.rows("r", x, [0, 3, 1]))]


def view_before_overwriting(b):
    # A result looks at rows that the next layer writes over.
    x = b.linear("x", b.input("codes", rows=8, bits=8), 12)
    first = b.rows("first", x, [0, 1])
    return [first, b.mlp("m", x)]


def view_after_overwriting(b):
    x = b.linear("x", b.input("codes", rows=8, bits=8), 12)
    y = b.mlp("m", x)
    return [b.rows("first", x, [0, 1]), y]


def pieces_of_bits(b):
    # Wide tensors of 9 to 16 bits, codes of 2 to 8.
    x = b.input("x", rows=8, bits=11)
    c = b.linear("c", b.norm("n", x, bits=5), 9, bits=3)
    y = b.linear("y", b.gelu("g", b.linear("d", c, 10, bits=8), bits=4), 12, x, bits=13)
    return [y, b.linear("z", b.norm("o", y, bits=2), 6, bits=9)]


def unused(b):
    # A node and an input that no result needs.
    x = b.input(rows=7)
    b.input("spare", rows=3, channels=4, bits=8)
    b.input("wide_spare", rows=3, channels=4, bits=16)
    b.linear("nothing", b.norm("n", x), 4)
    return [b.mlp("m", x)]


def one_row(b):
    x = b.input(rows=1)
    return [b.mlp("m", b.attend("a", x, heads=3, width=1))]


def wide_after_narrow(b):
    # Attention on few rows, then layers on more than the accumulators hold.
    x = b.attend("a", b.input("few", rows=2, channels=6), heads=1, width=6)
    y = b.mlp("m", b.input("many", rows=30, channels=6), 5)
    return [b.mlp("n", x, 5), y]


GRAPHS = {function.__name__: function for function in (
    no_class_token, unequal_sequences, windows, gathered_windows, rows_in_any_order, rows_of_codes,
    two_attentions, two_attentions_in_one_norm, norms_before_the_stream_is_overwritten,
    separate_projections, attention_into_codes, attention_before_an_activation,
    attention_on_attention, attentions_on_codes, layers_of_codes, mixer, activation_of_a_norm,
    activation_of_a_shared_layer, activation_of_rows, shared_activation, constants_alone,
    tokens_between_patches, residual_used_twice, residual_of_codes, residual_of_rows,
    residual_of_other_rows, view_before_overwriting, view_after_overwriting, pieces_of_bits,
    unused, one_row, wide_after_narrow)}


@pytest.mark.parametrize("variant", ["published", "other"])
@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name, variant):
    """The other variant is of other operators, and has its nodes in another order."""
    b = Builder(deferred=variant == "other", table=variant == "other")
    graph = b.graph(*GRAPHS[name](b))
    if variant == "published":
        check(graph, images=(1, 2))
    else:
        check(shuffled(graph, 1), images=(1, 3))


# --- Many short sequences: group by group, or as everything else ---


@pytest.fixture(params=["whole", "groups"])
def only(request, monkeypatch):
    """Let the compiler have only the one kind of plans; it takes the one of fewer cycles else."""
    kind, runs, run = request.param == "groups", [], EncoderPipeline.run

    def counted(pipeline):
        runs.append(pipeline)
        run(pipeline)

    monkeypatch.setattr(compiler, "plans",
                        lambda graph, config, **more: plan.plans(graph, config)[kind:kind + 1])
    monkeypatch.setattr(EncoderPipeline, "run", counted)
    yield
    assert bool(runs) == kind


def equal_windows(rows=12, length=3):
    return {"sequences": [(row, length) for row in range(0, rows, length)]}


def blocks(b, stream, count, windows, **options):
    for index in range(count):
        stream = b.mlp(f"m{index}", b.attend(f"a{index}", stream, **windows), **options)
    return stream


def blocks_of_windows(b):
    return [blocks(b, b.input(rows=12), 3, equal_windows())]


def windows_of_one_row(b):
    return [blocks(b, b.input(rows=13), 2, equal_windows(13, 1))]


def results_between_blocks(b):
    x = blocks(b, b.input(rows=12), 1, equal_windows())
    y = b.attend("b", x, **equal_windows())
    z = b.mlp("n", y)
    return [x, y, z, b.linear("w", b.norm("o", x), 5)]


def norm_of_blocks_for_another_layer(b):
    # What a block projects is also a result and the operand of a layer.
    x = blocks(b, b.input(rows=12), 1, equal_windows())
    n = b.norm("n", x)
    y = b.linear("p", b.attention("a", n, **equal_windows()), 12, x)
    return [b.linear("l", n, 5), n, b.mlp("m", y)]


def first_norm_for_another_layer(b):
    x = b.input(rows=12)
    n = b.norm("n", x)
    y = b.linear("p", b.attention("a", n, **equal_windows()), 12, x)
    return [n, b.mlp("m", y), b.linear("l", n, 5)]


def second_norm_for_another_layer(b):
    x = b.attend("a", b.input(rows=12), **equal_windows())
    n = b.norm("n", x)
    y = b.linear("out", b.gelu("g", b.linear("fc1", n, 7, bits=8)), 12, x)
    return [blocks(b, y, 1, equal_windows()), n, b.linear("l", n, 5)]


def stream_for_two(b):
    x = b.attend("a", b.input(rows=12), **equal_windows())
    y = b.mlp("m", x)
    return [blocks(b, y, 1, equal_windows()), b.linear("z", b.norm("o", x), 4),
            b.linear("w", b.norm("q", y), 3, None)]


def blocks_end_in_codes(b):
    x = blocks(b, b.input(rows=12), 1, equal_windows())
    y = b.attend("b", x, **equal_windows())
    act = b.gelu("g", b.linear("fc1", b.norm("n", y), 10, bits=8))
    codes = b.linear("fc2", act, 8, bits=8)
    return [codes, b.linear("y", codes, 6)]


def blocks_without_residuals(b):
    n = b.norm("n", b.input(rows=12))
    y = b.linear("p", b.attention("a", n, **equal_windows()), 9)
    act = b.gelu("g", b.linear("fc1", b.norm("o", y), 10, bits=8))
    return [b.linear("fc2", act, 7)]


def blocks_of_rows(b):
    # Every other row, twice over, and the rows of a block in another order in the next one.
    x = b.rows("some", b.mlp("l", b.input(rows=12)), [*range(0, 12, 2), *range(1, 12, 2)])
    y = blocks(b, x, 1, equal_windows())
    z = b.rows("back", y, [7, 3, 6, 2, 5, 1, 4, 0, 11, 9, 10, 8])
    return [b.mlp("n", b.attend("b", z, **equal_windows()))]


def two_chains(b):
    x = blocks(b, b.input("x", rows=12), 1, equal_windows())
    y = b.mlp("n", b.attend("b", b.input("y", rows=15), **equal_windows(15)))
    return [x, y, b.linear("z", b.norm("zn", y), 5)]


GROUPS_OF = {function.__name__: function for function in (
    blocks_of_windows, windows_of_one_row, results_between_blocks,
    norm_of_blocks_for_another_layer, first_norm_for_another_layer, second_norm_for_another_layer,
    stream_for_two, blocks_end_in_codes, blocks_without_residuals, blocks_of_rows, two_chains)}


@pytest.mark.usefixtures("only")
@pytest.mark.parametrize("variant", ["published", "other"])
@pytest.mark.parametrize("name", GROUPS_OF)
def test_groups_of_sequences(name, variant):
    b = Builder(seed=2, deferred=variant == "other", table=variant == "other")
    graph = b.graph(*GROUPS_OF[name](b))
    config = dataclasses.replace(settings(graph), rows=2, cols=2, param_depth=128)
    if variant == "published":
        check(graph, config, images=(2,))
    else:
        check(shuffled(graph, 1), config, images=(3,))


@pytest.mark.usefixtures("only")
@pytest.mark.parametrize("form", ["class token", "two heads", "registers"])
def test_images_as_groups(form):
    sizes = {**SMALL, "tokens": 7, **FORMS.get(form, {})}
    graph = random_vit(np.random.default_rng(4), **sizes, **OPTIONS["accurate"])
    check(graph, dataclasses.replace(TINY, **OPTIONS["accurate"], rows=4, cols=4), images=(4, 5))


@pytest.mark.parametrize(("cols", "projections"), [(5, {"qkv"}), (6, {"q", "k", "v"})])
def test_all_projections_at_once_where_that_takes_fewer_tiles(cols, projections, monkeypatch):
    """Side by side, 36 channels of Q, K and V take 8 tiles of 5 instead of 9; 6 of 6 either way."""
    graph = random_vit(np.random.default_rng(4), **SMALL, **PUBLISHED)
    config = dataclasses.replace(TINY, cols=cols, lanes=1, token_depth=16, bank_depth=4096)
    monkeypatch.setattr(compiler, "plans",
                        lambda graph, config, **more: plan.plans(graph, config)[1:2])
    project, found = Attention.project, []

    def counted(self, kinds, heads, index):
        found.append(kinds)
        return project(self, kinds, heads, index)

    monkeypatch.setattr(Attention, "project", counted)
    compiler.compile_operations(graph.repeated(4), config)
    assert set(found) == projections
    check(graph, config, images=(4,))


# --- Random graphs ---


def random_graph(rng):
    """Return a random network: streams of some rows that layers, attention and rows act on."""
    b = Builder(seed=int(rng.integers(1000)), deferred=bool(rng.integers(2)),
                table=bool(rng.integers(2)))

    def choose(*values):
        return values[rng.integers(len(values))]

    rows, heads = int(rng.integers(2, 16)), int(rng.integers(1, 4))
    channels = heads * int(rng.integers(2, 6)) + 3  # the norm of two has no more than two results
    stream, results = b.input("x", rows, channels, bits=16), []
    if rng.integers(2):
        stream = b.linear("embed", b.input("codes", rows, 5, bits=8), channels,
                          choose(None, stream, b.constant("position", rows, channels)))
    for step in range(int(rng.integers(1, 5))):
        kind, name = choose("attend", "attend", "mlp", "mlp", "layer", "codes", "rows"), f"s{step}"
        if kind == "attend":
            edges = sorted({0, rows, *rng.integers(0, rows, int(rng.integers(3))).tolist()})
            sequences = [(low, high - low) for low, high in itertools.pairwise(edges)]
            stream = b.attend(name, stream, heads=heads, width=int(rng.integers(2, 6)),
                              sequences=sequences)
        elif kind == "mlp":
            stream = b.mlp(name, stream, int(rng.integers(2, 20)))
        elif kind == "layer":
            stream = b.linear(f"{name}.y", b.norm(f"{name}.n", stream, choose(8, 5)), channels,
                              choose(None, stream))
        elif kind == "codes":
            codes = b.linear(f"{name}.c", b.norm(f"{name}.n", stream), 9, bits=8)
            if rng.integers(2):
                codes = b.gelu(f"{name}.g", codes)
            stream = b.linear(f"{name}.y", codes, channels, choose(None, stream))
        else:
            rows = int(rng.integers(1, rows + 1))
            index = rng.permutation(b.tensors[stream].rows)[:rows].tolist()
            stream = b.rows(f"{name}.r", stream, index)
        if rng.random() < 0.3:
            results.append(stream)
    y = b.linear("y", b.norm("yn", stream), 7)
    graph = b.graph(*dict.fromkeys((*(name for name in results if name != "x"), y)))
    return shuffled(graph, int(rng.integers(1000)))


@pytest.mark.parametrize("seed", range(16))
def test_random_graphs(seed):
    rng = np.random.default_rng(seed)
    graph = random_graph(rng)
    lanes = int(rng.integers(1, 4))
    rows = lanes * int(rng.integers(2, 4))
    config = dataclasses.replace(
        settings(graph), rows=rows, lanes=lanes,
        cols=lanes * int(rng.integers(1, rows // lanes + 1)),
        token_depth=int(rng.choice([2, 4, 16])), bank_depth=2048, param_depth=128)
    check(graph, config, images=(int(rng.integers(1, 4)),), seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_nodes_of_few_bits(seed):
    """Every layer with bits of its own."""
    rng = np.random.default_rng(seed)
    random = random_float_vit(rng, **{**SMALL, "blocks": 1})
    choices = {node.name: {"weight_bits": int(rng.integers(2, 9))} for node in random.of(Linear)}
    for node in random.nodes:
        if isinstance(node, Norm | Context | Activation) or node.name.endswith("qkv"):
            choices.setdefault(node.name, {})["bits"] = int(rng.integers(3, 9))
    patches = rng.standard_normal((8, SMALL["tokens"] - 1, SMALL["patch_dim"]), np.float32)
    graph = quantize(random, {"patches": patches}, choices=choices, **PUBLISHED)
    assert len({node.bits for node in graph.nodes if getattr(node, "bits", None)}) > 3
    check(graph, TINY, images=(1, 2))


@pytest.mark.parametrize("epsilon", [2**32 - 1, 2**32, 2**41 + 3, 2**46 + 2**31])
def test_epsilons_of_more_than_one_field(epsilon):
    """As large as sums of squares, so that each half changes the result."""
    graph = random_vit(np.random.default_rng(5), **SMALL, **OPTIONS["accurate"])
    graph = dataclasses.replace(graph, nodes=tuple(
        dataclasses.replace(node, epsilon=epsilon) if isinstance(node, Norm) else node
        for node in graph.nodes))
    check(graph, dataclasses.replace(TINY, **OPTIONS["accurate"]), images=(1,))


# --- What is refused ---


def sum_of_two(b):
    x = b.input()
    return [b.add(Add(name="sum", input=x, other=b.linear("l", b.norm("n", x)), bits=16,
                      mult=np.array(1), shift=np.array(0), other_mult=np.array(1),
                      other_shift=np.array(0)))]


def rows_of_two_streams(b):
    x = b.input()
    return [b.rows("both", (x, b.linear("l", b.norm("n", x))), [(0, 1), (1, 2)])]


def attention_as_result(b):
    b.linear("y", b.attention("a", b.norm("n", b.input())))
    return ["a.attention"]


def scores_as_result(b):
    return [b.linear("y", b.attention("a", b.norm("n", b.input()))), "a.scores"]


def context_as_result(b):
    return [b.linear("y", b.attention("a", b.norm("n", b.input()))), "a.context"]


def context_read_twice(b):
    context = b.attention("a", b.norm("n", b.input()))
    return [b.linear("y", context), b.linear("z", context)]


def context_into_an_activation(b):
    return [b.linear("y", b.gelu("g", b.attention("a", b.norm("n", b.input()))))]


def queries_as_result(b):
    return [b.linear("y", b.attention("a", b.norm("n", b.input()))), "a.qkv"]


def queries_with_residual(b):
    x = b.input()
    qkv = b.linear("qkv", b.norm("n", x, bits=8), 12, x, bits=8, symmetric=True)
    return [b.linear("y", b.attention("a", "n", projections=[qkv, qkv, qkv], width=2))]


def queries_without_layer(b):
    n = b.norm("n", b.input())
    return [b.linear("y", b.attention("a", n, projections=[n, b.linear("k", n, 12, bits=8),
                                                           b.linear("v", n, 12, bits=8)]))]


def queries_for_two(b):
    n = b.norm("n", b.input())
    q, k, v, w = (b.linear(name, n, 12, bits=8, symmetric=True) for name in "qkvw")
    return [b.linear("y", b.attention("a", n, projections=[q, k, v])),
            b.linear("z", b.attention("b", n, projections=[q, w, w]))]


def keys_of_another_tensor(b):
    n, m = b.norm("n", b.input("x")), b.norm("m", b.input("y"))
    projections = [b.linear(name, source, 12, bits=8, symmetric=True)
                   for name, source in (("q", n), ("k", m), ("v", m))]
    return [b.linear("y_out", b.attention("a", n, projections=projections))]


def attention_of_selected_codes(b):
    codes = b.rows("some", b.norm("n", b.input(rows=9)), [1, 2, 3, 8])
    return [b.linear("y", b.attention("a", codes))]


def attention_into_attention(b):
    qkv = b.linear("qkv", b.attention("a", b.norm("n", b.input())), 36, bits=8, symmetric=True)
    return [b.linear("y", b.attention("b", "n", projections=[qkv, qkv, qkv]))]


def values_of_other_heads(b):
    n = b.norm("n", b.input())
    y = b.linear("y", b.attention("a", n, width=6))
    b.nodes = [dataclasses.replace(node, head_dim=5, value_channel=26)
               if isinstance(node, Context) else node for node in b.nodes]
    b.nodes[-1] = dataclasses.replace(b.nodes[-1], weight=b.nodes[-1].weight[:, :10])
    return [y]


def constant_of_codes(b):
    x = b.input(rows=3)
    c = b.add(Constant(name="c", values=np.ones((3, 12), np.int8), bits=8))
    return [b.linear("y", b.norm("n", x)), b.linear("z", c)]


def residual_of_few_bits(b):
    n = b.norm("n", b.input())
    return [b.linear("y", n, 12, n)]


def layer_of_a_stream(b):
    return [b.linear("y", b.input())]


def many_rows(b):
    return [b.linear("y", b.input(rows=65536, channels=2, bits=8), 2)]


REFUSALS = {
    sum_of_two: "node 'sum': this accelerator has no operation for 'add' nodes",
    rows_of_two_streams: "node 'both': rows of several tensors that are not made for it cannot be "
                         "moved together by this accelerator",
    attention_as_result: "node 'a.attention': its result must be read by one context node only",
    scores_as_result: "node 'a.scores': its result must be read by one softmax node only",
    context_as_result: "node 'a.context': its result must be read by one linear node only",
    context_read_twice: "node 'a.context': its result must be read by one linear node only",
    context_into_an_activation: "node 'a.context': its result must be read by one linear node only",
    queries_as_result: "node 'a.qkv': queries, keys and values must be made by linear nodes "
                       "without residual for one attention only",
    queries_with_residual: "node 'qkv': queries, keys and values must be made by linear nodes "
                           "without residual for one attention only",
    queries_without_layer: "node 'n': queries, keys and values must be made by linear nodes "
                           "without residual for one attention only",
    queries_for_two: "node 'q': queries, keys and values must be made by linear nodes without "
                     "residual for one attention only",
    keys_of_another_tensor: "node 'a.scores': queries, keys and values must be projections of one "
                            "tensor",
    attention_of_selected_codes: "node 'some': an operand must be made by a node of its own, and "
                                 "not be rows of others",
    attention_into_attention: "node 'qkv': the projection of one attention must not make queries, "
                              "keys or values of another",
    values_of_other_heads: "node 'a.context': head_dim must be 6 as in 'a.scores', and the context "
                           "an operand",
    constant_of_codes: "node 'c': bits of a constant must be from 9 to 16, not 8",
    residual_of_few_bits: "node 'y': residual must be of 9 to 16 bits, not 8",
    layer_of_a_stream: "node 'y': input must be of at most 8 bits, not 16",
    many_rows: "node 'x': rows must be at most 65535, not 65536",
}


@pytest.mark.parametrize("make", REFUSALS, ids=lambda make: make.__name__)
def test_refusals(make):
    b = Builder()
    graph = b.graph(*make(b))
    for trace in False, True:
        with pytest.raises(CompileError, match=f"^{re.escape(REFUSALS[make])}$"):
            compile_network(graph, TINY, trace=trace)


def test_more_rows_than_fields_hold_are_refused_for_all_images_together():
    b = Builder()
    graph = b.graph(b.linear("y", b.input(rows=40000, channels=2, bits=8), 2))
    with pytest.raises(CompileError, match=r"^node 'x': rows must be at most 65535, not 80000$"):
        compile_network(graph, TINY, images=2)


def test_float_network_is_refused():
    graph = random_float_vit(np.random.default_rng(0), **SMALL)
    with pytest.raises(CompileError, match=r"^the network must be an integer one; quantize it "
                                           r"first$"):
        compile_network(graph, TINY)


# --- Masks ---


MASKS = {"causal": {"lengths": (9, 9), "causal": True},
         "padded": {"lengths": (5, 9, 1), "causal": False},
         "both": {"lengths": (8, 3), "causal": True}}


@pytest.mark.parametrize("options", [*OPTIONS, "half_16"])
@pytest.mark.parametrize("mask", MASKS)
def test_texts(mask, options):
    """Lengths alone need no accelerator with masks."""
    rng = np.random.default_rng(3)
    floats = random_float_text(rng, **MASKS[mask], vocabulary=6, tokens=9, channels=12, heads=2,
                               blocks=2, hidden=18)
    settings_of = {**OPTIONS, "half_16": {**PUBLISHED, "attention": "half_16"}}[options]
    graph = quantize(floats, {"patches": random_tokens(rng, floats, 8)}, method="minmax",
                     **settings_of)
    config = dataclasses.replace(settings(graph), masks=mask != "padded",
                                 bank_depth=2048, act_bits=settings_of.get("act_bits", 8))
    check(graph, config, images=(1, 2))


def test_rows_that_grow_to_the_end_of_a_text_are_one_operation():
    rng = np.random.default_rng(3)
    floats = random_float_text(rng, lengths=(5, 9), causal=True, vocabulary=6, tokens=9,
                               channels=12, heads=2, blocks=1, hidden=18)
    graph = quantize(floats, {"patches": random_tokens(rng, floats, 8)}, method="minmax",
                     **PUBLISHED)
    config = dataclasses.replace(settings(graph), masks=True, token_depth=16)
    _, ops, _ = compiler.compile_operations(graph, config)
    softmax = [op.fields for op in ops if op.opcode is Opcode.SHIFTMAX]
    units = plan.plans(graph, config)[0][0].units(graph.tensors["blocks.0.scores"].spans)
    assert len(softmax) == 2 * len(units)
    assert all(fields["key_step"] == 1 for fields in softmax)


@pytest.mark.usefixtures("only")
@pytest.mark.parametrize("counts", ["causal", "any"])
def test_masks_of_groups_of_sequences(counts):
    b = Builder(deferred=counts == "any")
    graph = b.graph(*blocks_of_windows(b))
    sequences = graph.of(Scores)[0].sequences
    rng = np.random.default_rng(0)
    graph = masked(graph, causal_counts(sequences) if counts == "causal" else np.concatenate(
        [np.maximum(rng.permutation(rows) + 1, 1) for _, rows in sequences]))
    check(graph, dataclasses.replace(settings(graph), masks=True), images=(1, 2))


def test_different_keys_need_masks():
    graph = masked(random_vit(np.random.default_rng(0), **SMALL, **PUBLISHED), np.arange(1, 10))
    with pytest.raises(CompileError, match=r"^masks must be true for node 'blocks\.0\.scores', "
                       r"whose rows attend to different numbers of keys, not false$") as info:
        compile_network(graph, TINY)
    assert info.value.needs == {"masks": True}
    assert compile_network(graph, dataclasses.replace(TINY, masks=True)) is not None
