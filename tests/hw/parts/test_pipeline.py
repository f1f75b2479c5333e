# amaranth: UnusedElaboratable=no
"""The pipelined multiplication: its product, its latency, and the size of what it generates."""

import random

import pytest
from amaranth import Module, Signal, signed
from amaranth.back import rtlil
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from systola.hw.parts.pipeline import Pipeline, node
from systola.sim.harness import run


class Product(wiring.Component):
    """``o = a * b``, `latency` later."""

    def __init__(self, a_bits, b_bits, rows):
        self.rows, self.latency = rows, Pipeline.multiply_cycles(b_bits, rows)
        super().__init__({"a": In(signed(a_bits)), "b": In(signed(b_bits)),
                          "o": Out(signed(a_bits + b_bits))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(Pipeline(m).multiply(self.a, self.b, self.rows))
        return m


def cells(component):
    return rtlil.convert(component, emit_src=False).count("\n  cell ")


@pytest.mark.parametrize(("a_bits", "b_bits", "rows"), [(2, 2, 3), (5, 4, 1), (4, 7, 2),
                                                        (17, 31, 3)])
def test_every_corner_and_random_products(a_bits, b_bits, rows):
    dut, rng = Product(a_bits, b_bits, rows), random.Random(a_bits)
    corners = [[-1 << bits - 1, (1 << bits - 1) - 1, -1, 0, 1] for bits in (a_bits, b_bits)]
    pairs = [(a, b) for a in corners[0] for b in corners[1]]
    pairs += [tuple(rng.randrange(-1 << bits - 1, 1 << bits - 1) for bits in (a_bits, b_bits))
              for _ in range(60)]
    got = []

    async def bench(ctx):
        for a, b in pairs + [(0, 0)] * (dut.latency - 1):
            ctx.set(dut.a, a)
            ctx.set(dut.b, b)
            await ctx.tick()
            got.append(ctx.get(dut.o))

    run(dut, bench)
    assert got[dut.latency - 1:] == [a * b for a, b in pairs]


def test_a_row_is_a_few_cells_however_wide_and_many():
    """Rows that share nothing double with each, and with the bits of an operand."""
    for a_bits, b_bits in (8, 8), (40, 8), (8, 32), (40, 32):
        assert cells(Product(a_bits, b_bits, 3)) <= 20 * b_bits / 2, (a_bits, b_bits)


class Total(wiring.Component):
    """``o`` is the sum of `count` inputs, ``cycles`` later."""

    def __init__(self, count):
        self.count, self.cycles = count, None
        super().__init__({"i": In(8 * count), "o": Out(16)})

    def elaborate(self, platform):
        m = Module()
        values = [self.i.word_select(k, 8) for k in range(self.count)]
        total, self.cycles = Pipeline(m).add_up(values)
        m.d.comb += self.o.eq(total)
        return m


@pytest.mark.parametrize(("count", "cycles"), [(2, 1), (4, 1), (5, 2), (17, 3)])
def test_four_values_are_added_a_cycle(count, cycles):
    dut, rng = Total(count), random.Random(count)

    async def bench(ctx):
        for _ in range(4):
            values = bytes(rng.randrange(128, 256) for _ in range(count))
            ctx.set(dut.i, int.from_bytes(values, "little"))
            for _ in range(cycles):
                await ctx.tick()
            assert ctx.get(dut.o) == sum(values)
            await ctx.tick()

    run(dut, bench)
    assert dut.cycles == cycles


class Sums(wiring.Component):
    """Adds a sum to itself, eight times over, each as a node or not."""

    def __init__(self, nodes):
        self.nodes = nodes
        super().__init__({"i": In(16), "o": Out(16)})

    def elaborate(self, platform):
        m = Module()
        value = self.i ^ Signal(16)
        for _ in range(8):
            value = (value + value)[:16]
            if self.nodes:
                value = node(m, value)
        m.d.comb += self.o.eq(value)
        return m


def test_a_node_is_made_once():
    assert cells(Sums(True)) <= 10
    assert cells(Sums(False)) > 100  # why there are nodes
