"""Proofs that arithmetic units equal their definitions, for all operands at reduced width."""

from math import isqrt

from amaranth import Array, Cat, Const, Mux, Signal, signed

from systola.hw.contract.dsp_packing import plan_packing

__all__ = ["division", "field_counter", "normalised_root", "packed_products", "product",
           "requantization", "root", "two_precisions"]


def division(bench, hw, **sizes):
    """Require ``num // den`` and the remainder from the divider, in their cycle and until taken."""
    unit, m = bench.unit(hw.Divider(**sizes)), bench.m
    shape = unit.i.p.shape()
    new = bench.free(shape.size, "operands")
    num, den = shape(new).num, shape(new).den
    fits = (den != 0) & ((num >> len(unit.o.p.quot)) < den)
    bench.offer(unit.i, payload=new, when=fits)
    entered = bench.wire(unit.i.valid & unit.i.ready)
    left = bench.accept(unit.o)
    asked, inside = Signal(shape), Signal()
    age = Signal(range(unit.cycles + 3))
    with m.If(entered):
        m.d.sync += [asked.eq(unit.i.p), inside.eq(1), age.eq(1)]
    with m.Else():
        m.d.sync += [inside.eq(inside & ~left), age.eq(Mux(age == unit.cycles + 1, age, age + 1))]
    bench.rule("the quotient is right", ~unit.o.valid | (unit.o.p.quot == asked.num // asked.den))
    bench.rule("the remainder is right", ~unit.o.valid | (unit.o.p.rem == asked.num % asked.den))
    bench.rule("it comes in its cycle and only then",
               unit.o.valid == (inside & (age == unit.cycles + 1)))
    bench.rule("another is taken if none is inside or one leaves",
               unit.i.ready == (~inside | left))


def root(bench, hw, width):
    """Require the root of the definition: the integer square root, or one above."""
    unit, m = bench.unit(hw.InverseRoot(width=width, start="leading_one", steps=7)), bench.m
    _, entered = bench.offer(unit.i)
    bench.accept(unit.o)
    asked = Signal(width)
    with m.If(entered):
        m.d.sync += asked.eq(unit.i.p.v)
    roots = [_root(v, hw.ITERATIONS) for v in range(1 << width)]
    assert all(0 <= k - max(isqrt(v), 1) <= 1 for v, k in enumerate(roots))
    right = Array(Const(k, width) for k in roots)[asked]
    bench.rule("the root is right", ~unit.o.valid | (unit.o.p.root == right))
    bench.rule("the factor is right", ~unit.o.valid | (
        unit.o.p.factor == Array(Const(hw.MAX31 // k) for k in roots)[asked]))


def _root(v, iterations):
    """Return k after that many steps of ``k = max((k + v // k) >> 1, 1)``."""
    k = 1 << (v.bit_length() + 1) // 2
    for _ in range(iterations):
        k = max((k + v // k) >> 1, 1)
    return k


def normalised_root(bench, hw, width):
    """Require the place of the highest four bits that are not zero, and the quotient."""
    unit, m = bench.unit(hw.NormalisedRoot(width=width)), bench.m
    new = bench.free(unit.i.p.shape().size, "operand")
    asked, inside = Signal(width), Signal()  # one at a time
    _, entered = bench.offer(unit.i, payload=new,
                             when=(unit.i.p.shape()(new).v != 0) & ~inside)
    left = bench.accept(unit.o)
    m.d.sync += inside.eq((inside | entered) & ~left)
    with m.If(entered):
        m.d.sync += asked.eq(unit.i.p.v)
    place = bench.wire(asked[4:] != 0)
    normal = bench.wire(Mux(place, asked, asked << 4)[:width])
    root = bench.wire(sum(normal >= k * k for k in range(1, 1 << hw.NORM_ROOT_BITS)))
    right = Array(Const(hw.NORM_NUMERATOR // max(k, 1), len(unit.o.p.factor))
                  for k in range(1 << hw.NORM_ROOT_BITS))[root]
    bench.rule("one at a time is inside", Mux(
        inside, ~unit.o.valid | unit.i.ready, ~unit.o.valid & unit.i.ready))
    bench.rule("the place is right", ~unit.o.valid | (unit.o.p.place == place))
    bench.rule("the factor is right", ~unit.o.valid | (unit.o.p.factor == right))


def product(bench, hw, style, bits):
    """Require ``psum + weight * act`` of a processing element."""
    sum_bits = 2 * bits + 2
    unit, m = bench.unit(hw.ProcessingElement(
        act_bits=bits, weight_bits=bits, psum_bits=sum_bits, style=style)), bench.m
    act, weight, psum = (bench.free(signed(size)) for size in (bits + 1, bits, sum_bits))
    m.d.comb += [unit.act.eq(act), unit.w.eq(weight), unit.psum.eq(psum), unit.load.eq(1),
                 unit.swap.eq(1)]
    # With load and swap in every cycle a weight meets the activation of the cycle after its own.
    right = _later(bench, act, 3) * _later(bench, weight, 4) + _later(bench, psum, 1)
    filled = _filled(bench, 4)
    bench.rule("the sum is right", ~filled | (unit.psum_out == right[:sum_bits].as_signed()))


def packed_products(bench, hw, bits, rows, group, tokens=1):
    """Require that column sums of packed slices are sums of separate products.

    An array of one slice column, with the counters that take its sums apart; weights and
    activations have all values that `systola.hw.contract.dsp_packing` allows.
    """
    plan = plan_packing(bits, bits, rows, cols=group, max_tokens=tokens)
    assert (plan.group, plan.tokens) == (group, tokens)
    unit, m = bench.unit(hw.SystolicArray(rows=rows, cols=group, act_bits=bits, weight_bits=bits,
                                          style="dsp_packed", packing=plan)), bench.m
    most, least = 1 << bits - 1, -(1 << bits - 1)
    acts = [bench.free(signed(bits + 1), "act") for _ in range(tokens * rows)]
    weights = [bench.free(signed(bits), "weight") for _ in range(group * rows)]
    allowed = Cat((act >= least) & (act <= most) for act in acts).all() & Cat(
        weight != least for weight in weights).all()
    m.d.comb += [unit.swap.eq(1), unit.w_col.eq(1)]
    m.d.comb += [port.eq(value) for port, value in zip(unit.acts, acts, strict=True)]
    m.d.comb += [port.eq(value) for port, value in zip(unit.w, weights, strict=True)]
    past = unit.latency + 1
    right_so_far = allowed  # in every cycle of which something is still inside
    for _ in range(past):
        right_so_far = allowed & bench.before(bench.wire(right_so_far))
    for token in range(tokens):
        for column in range(group):
            # With load and swap in every cycle, row r meets the weight of r - 1 cycles later.
            right = sum(_later(bench, acts[token * rows + r], unit.latency)
                        * _later(bench, weights[column * rows + r], past - r)
                        for r in range(rows))
            bench.rule(f"the sum of column {column}, token {token}", ~right_so_far | (
                unit.psum[token * group + column] == right))


def two_precisions(bench, hw, bits, narrow_bits):
    """Require the same of an array whose tiles are of two precisions, in any order.

    One row, of one slice; a tile of the other precision may come in every cycle.
    """
    unit, m = bench.unit(hw.SystolicArray(rows=1, cols=2, act_bits=bits, weight_bits=bits,
                                          style="dsp_packed", narrow_bits=narrow_bits)), bench.m
    narrow, act = bench.free(name="narrow"), bench.free(signed(bits + 1), "act")
    weights = [bench.free(signed(bits), "weight") for _ in range(2)]
    m.d.comb += [unit.swap.eq(1), unit.w_col.eq(1), unit.w_narrow.eq(narrow), unit.acts[0].eq(act),
                 unit.psum_narrow.eq(_later(bench, narrow, unit.latency))]
    m.d.comb += [port.eq(value) for port, value in zip(unit.w, weights, strict=True)]

    def within(value, high, low=None):
        return (value >= (-high if low is None else low)) & (value <= high)

    pairs = []
    for weight in weights:
        low = bench.wire(weight[:bits // 2].as_signed())
        pairs.append((low, bench.wire(weight - low >> bits // 2)))
    most, half = (1 << bits - 1) - 1, (1 << narrow_bits - 1) - 1
    allowed = bench.wire(Mux(
        narrow, Cat(within(value, half) for pair in pairs for value in pair).all(),
        Cat(within(weight, most) for weight in weights).all()))
    act_allowed = Mux(_later(bench, narrow, 1), within(act, half, -half - 1), within(act, most + 1))
    past = unit.latency + 1
    right = _later(bench, allowed, past) & _later(bench, bench.wire(act_allowed), unit.latency)
    is_narrow, act = _later(bench, narrow, past), _later(bench, act, unit.latency)
    right &= _filled(bench, past)
    for column in range(2):
        bench.rule(f"the sum of column {column}", ~right | is_narrow | (
            unit.psum[column] == act * _later(bench, weights[column], past)))
        for place, weight in enumerate(pairs[column]):
            got = unit.psum[column][place * unit.half:(place + 1) * unit.half].as_signed()
            bench.rule(f"the sum of narrow column {2 * column + place}", ~right | ~is_narrow | (
                got == act * _later(bench, weight, past)))


def field_counter(bench, hw):
    """Require that `next_count` finds a sum's upper part from its lower bits."""
    seen, bits = 3, 4
    before, step = bench.free(signed(seen + bits)), bench.free(signed(seen))
    after = bench.wire(before + step)
    count = hw.next_count(before[seen:].as_signed(), before[:seen], after[:seen], bits)
    inside = (step != -(1 << seen - 1)) & (after[-1] == after[-2])
    bench.rule("the count is right", ~inside | (count == after[seen:seen + bits].as_signed()))


def _later(bench, value, cycles):
    """Return `value` that many cycles later."""
    for _ in range(cycles):
        later = Signal(value.shape())
        bench.m.d.sync += later.eq(value)
        value = later
    return value


def _filled(bench, cycles):
    """Return whether that many cycles have passed since reset."""
    return _later(bench, Const(1, 1), cycles)


def _round_half_even(value, shift):
    """Return ``value / 2**shift`` rounded to nearest, ties to even; written as the definition."""
    quotient = value >> shift
    rest = value - (quotient << shift)
    twice = rest << 1
    one = Const(1) << shift
    return quotient + ((twice > one) | ((twice == one) & quotient[0]))


def requantization(bench, hw, in_bits, mult_bits, out_bits):
    """Require ``sat(rne((z + bias) * mult, shift), bits)``, for every shift and width."""
    unit, m = bench.unit(hw.Requantizer(
        lanes=1, in_bits=in_bits, mult_bits=mult_bits, code_mult_bits=mult_bits,
        bias_bits=in_bits, out_bits=out_bits, residual=False, symmetric=True)), bench.m
    beat = bench.free(unit.i.p.shape().size, "beat")
    i = unit.i.p.shape()(beat)
    total = bench.wire(i.z[0] + i.p[0].bias)
    fits = (total[in_bits] == total[in_bits - 1]) & (i.bits >= 2) & (i.bits <= out_bits)
    m.d.comb += [unit.i.valid.eq(fits & bench.free()), unit.i.p.eq(beat), unit.o.ready.eq(1)]
    latency = unit.latency(long=False)
    rounded = _round_half_even(bench.wire(total * i.p[0].mult), i.p[0].shift)
    high = (Const(1) << (i.bits - 1)[:5]) - 1
    low = Mux(i.symmetric, -high, -high - 1)
    y = Mux(rounded > high, high, Mux(rounded < low, low, rounded))
    y = bench.wire(y[:out_bits].as_signed())
    right, valid = _later(bench, y, latency), _later(bench, unit.i.valid & unit.i.ready, latency)
    bench.rule("a result for each beat, in its time", unit.o.valid == valid)
    bench.rule("the result is right", ~valid | (unit.o.p.y[0] == right))
