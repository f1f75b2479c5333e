"""Amaranth simulation for every test: seeded stalls, checks of the stream rules, bounded runs."""

from amaranth.sim import Simulator

__all__ = ["collect", "drive", "run"]


async def drive(ctx, port, payloads, rng=None, *, idle=0.4):
    """Send `payloads` into the stream `port`.

    Parameters
    ----------
    ctx : SimulatorContext
        Context of the calling testbench.
    port : stream interface
        The consumer's stream; this testbench drives ``valid`` and ``payload``.
    payloads : iterable
        One transfer each, in any form ``ctx.set`` takes.
    rng : random.Random, optional
        Without it ``valid`` never falls between transfers; with it, idle cycles are inserted with
        probability `idle` each, during which the payload is left as it was.
    """
    for payload in payloads:
        while rng and rng.random() < idle:
            await ctx.tick()
        ctx.set(port.payload, payload)
        ctx.set(port.valid, 1)
        ready = False
        while not ready:  # no tick().until(): left behind by an error elsewhere, it warns
            *_, ready = await ctx.tick().sample(port.ready)
        ctx.set(port.valid, 0)


async def collect(ctx, port, count, rng=None, *, stall=0.4, cycles=None):
    """Return the next `count` payloads of the stream `port`.

    With `rng`, stall with probability `stall` a cycle and check that valid and payload hold
    meanwhile (``AssertionError``). Half of the seeds are shy: they raise ready only after seeing
    valid, which hangs a producer that waits for ready first and so trips the watchdog of `run`.
    The list `cycles`, if there is one, takes the cycles from the call to the end of each transfer.
    """
    got, held, cycle = [], None, 0
    shy = rng is not None and rng.random() < 0.5
    while len(got) < count:
        ready = rng is None or ((held is not None or not shy) and rng.random() >= stall)
        ctx.set(port.ready, ready)
        *_, valid, payload = await ctx.tick().sample(port.valid, port.payload)
        assert held is None or valid, "valid fell while stalled"
        assert held is None or payload == held, "payload changed while stalled"
        held = payload if valid and not ready else None
        cycle += 1
        if valid and ready:
            got.append(payload)
            if cycles is not None:
                cycles.append(cycle)
    ctx.set(port.ready, 0)
    return got


def run(dut, *testbenches, max_cycles=10_000, background=(), vcd=None):
    """Simulate until every testbench has returned; give the number of clock cycles it took.

    Parameters
    ----------
    dut : Elaboratable
        Design with a ``sync`` domain.
    testbenches : async callables
        Each is called with its own context and must return.
    max_cycles : int
        Cycles after which ``TimeoutError`` is raised.
    background : sequence of async callables
        Testbenches that may run forever (monitors, memories).
    vcd : str, optional
        Waveform file to write.
    """
    cycles = 0

    async def watchdog(ctx):
        nonlocal cycles
        while cycles < max_cycles:
            await ctx.tick()
            cycles += 1
        raise TimeoutError(f"{type(dut).__name__} still busy after {max_cycles} cycles")

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    for testbench in testbenches:
        sim.add_testbench(testbench)
    for testbench in (watchdog, *background):
        sim.add_testbench(testbench, background=True)
    if vcd is None:
        sim.run()
    else:
        with sim.write_vcd(vcd):
            sim.run()
    return cycles
