"""What END looks for: tokens and weights that no instruction has taken, without a gap."""

import pytest
from amaranth import Module
from amaranth.lib.wiring import Component, In

from systola.hw.contract.isa import Engine
from systola.hw.control.token_gate import TokenGate, connect_gates
from systola.hw.matrix.tile_loader import TileLoader
from systola.sim.harness import drive, run


class Gates(Component):
    """Three connected gates."""

    def __init__(self):
        self.gates = [TokenGate(engine=engine, payload=8) for engine in Engine]
        super().__init__({"unused": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules += self.gates
        connect_gates(m, self.gates)
        return m


def test_token_is_left_from_the_giver_until_the_taker_starts():
    dut = Gates()
    load, matrix, _ = dut.gates

    async def bench(ctx):
        async def left():
            await ctx.tick()
            return [ctx.get(gate.left) for gate in dut.gates]

        ctx.set(load.o.ready, 1)
        await drive(ctx, load.i, [{"payload": 1, "wait": 0, "signal": 1 << Engine.MATRIX}] * 2)
        assert await left() == [0, 0, 0]  # nothing is given before they are done
        ctx.set(load.done, 1)
        assert await left() == [1, 0, 0]  # on its way
        assert ctx.get(load.busy)
        assert await left() == [1, 1, 0]
        ctx.set(load.done, 0)
        for _ in range(3):
            assert (await left())[1:] == [1, 0]
        assert not ctx.get(load.busy)
        ctx.set(matrix.o.ready, 1)
        await drive(ctx, matrix.i, [{"payload": 2, "wait": 1 << Engine.LOAD, "signal": 0}])
        assert await left() == [0, 1, 0]
        await drive(ctx, matrix.i, [{"payload": 2, "wait": 1 << Engine.LOAD, "signal": 0}])
        assert await left() == [0, 0, 0]

    run(dut, bench)


@pytest.mark.parametrize("group", [1, 2])
def test_weights_are_left_until_their_tile_is_swapped_in(group):
    dut = TileLoader(rows=3, cols=4, weight_bits=4, group=group)

    async def bench(ctx):
        assert not ctx.get(dut.left)
        for word in range(4):
            await drive(ctx, dut.i, [[word] * 3])
            for _ in range(6):  # the part of a tile that is here stays, in the array or before it
                assert ctx.get(dut.left)
                await ctx.tick()
        assert ctx.get(dut.ready)
        ctx.set(dut.swap, 1)
        await ctx.tick()
        ctx.set(dut.swap, 0)
        for _ in range(8):
            await ctx.tick()
        assert not ctx.get(dut.left)
        await drive(ctx, dut.i, [[9] * 3])  # the first word of the next tile
        await ctx.tick()
        assert ctx.get(dut.left)

    run(dut, bench)
