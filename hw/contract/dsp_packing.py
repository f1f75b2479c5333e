"""Planner: how many products one DSP slice computes at once, exactly.

Weights ``w_i`` and activations ``x_j`` (of different vectors) enter a multiplier side by side, as
``A = sum(w_i << p_i)`` and ``B = sum(x_j << q_j)``. Their product holds every ``w_i * x_j`` in a
field at ``p_i + q_j``, and the slices of a column add up such products. The sums L_f of the fields
outgrow them: only the low bits of each are seen, and it borrows from or carries into the next.

Define ``M_0 = L_0`` and ``M_f = L_f + floor(M_(f-1) / 2**s)`` for fields s bits apart. Then the
bits of field f in the column's sum are exactly ``M_f mod 2**s``, and what is missing is the count
``V_f = floor(M_f / 2**s)``. It follows from *taps*: every few rows, look at the field's top m bits,
which count units of ``2**(s-m)``. Rows in between change that number by at most ``2**(m-1) - 1``,
so the change is known from its value modulo ``2**m``, and so is whether it wrapped around. Below
the last row ``L_f = M_f - V_(f-1)``, ``M_f`` being the field's bits with ``V_f`` above them.

Weights lie in -W..W with W = 2**(weight_bits-1) - 1, activations in -X..X with X = 2**(act_bits-1)
(+X is the unsigned top digit of a split operand). Standard library only.
"""

from dataclasses import dataclass

__all__ = ["DSP48E1", "ECP5", "FABRIC_PINS", "Field", "Packing", "PackingError", "Slice",
           "field_ranges", "plan_chains", "plan_narrow", "plan_packing"]


class PackingError(ValueError):
    """No packing of at least two products fits; the message has the reason and the numbers."""


@dataclass(frozen=True)
class Slice:
    """Signed bits of a DSP slice: multiplier inputs for weights and activations, and adder.

    `chain` slices at most pass a sum to the next by wires of their own; 1 if none do.
    """

    name: str
    weight_port: int
    act_port: int
    sum_port: int
    chain: int = 1


# The wires run through a whole column of the device, 60 slices on an XC7S50. But nextpnr-xilinx
# puts the next two slices of a chain five rows higher, where only half a clock region has them,
# which is ten slices: the row of its clock lies between the halves.
DSP48E1 = Slice("DSP48E1", 25, 18, 48, chain=10)
FABRIC_PINS = {"INMODE": range(5), "ALUMODE": range(2, 4), "OPMODE": range(6, 7)}
"""Pins of a DSP48E1, and their bits, that must be 0 but no constant: nextpnr-xilinx leaves out what
ties them, and the products are wrong (openXC7/nextpnr-xilinx, pull request 159)."""

ECP5 = Slice("ECP5 MULT18X18D", 18, 18, 54)


@dataclass(frozen=True)
class Field:
    """One field of the sums, lowest first.

    Parameters
    ----------
    weight, token : int
        Which product it holds.
    offset, width : int
        Lowest bit, and bits up to the next field (for the last one, those of its sum).
    seen : int
        Top bits that a tap looks at; 0 for the last field and if one look at the end is enough.
    first : int
        Rows that add up before the first look; the field's top bit is still the sum's sign.
    taps : tuple of int
        Rows above each further look; the last one is all rows.
    """

    weight: int
    token: int
    offset: int
    width: int
    seen: int
    first: int
    taps: tuple[int, ...]


@dataclass(frozen=True)
class Packing:
    """What one DSP slice holds, for columns of `rows` slices.

    Parameters
    ----------
    weight_bits, act_bits, rows : int
        As planned for.
    weight_offsets, token_offsets : tuple of int
        Lowest bits p_i and q_j.
    fields : tuple of Field
        Lowest first.
    cost : float
        Estimated LUTs and flip-flops per product.
    """

    weight_bits: int
    act_bits: int
    rows: int
    weight_offsets: tuple[int, ...]
    token_offsets: tuple[int, ...]
    fields: tuple[Field, ...]
    cost: float

    @property
    def group(self):
        """Weights per slice: array columns that share it."""
        return len(self.weight_offsets)

    @property
    def tokens(self):
        """Activation vectors per cycle."""
        return len(self.token_offsets)

    @property
    def macs_per_dsp(self):
        """Products per slice and cycle."""
        return self.group * self.tokens

    @property
    def weight_span(self):
        """Bits of all weights of a slice, side by side."""
        return self.weight_offsets[-1] + self.weight_bits

    @property
    def sum_bits(self):
        """Signed bits of a column's sum of one field."""
        return _signed_bits(self.rows * _largest_product(self.weight_bits, self.act_bits))

    @property
    def packed_bits(self):
        """Signed bits of a column's sum of all fields."""
        return _signed_bits(_largest_sum(
            self.rows * _largest_product(self.weight_bits, self.act_bits),
            [field.offset for field in self.fields]))

    def count_range(self, index, rows):
        """Return the least and greatest count V of field `index` after `rows` rows."""
        low, high = field_ranges(self.fields, rows,
                                 _largest_product(self.weight_bits, self.act_bits))[index]
        width = self.fields[index].width
        return low >> width, high >> width


def field_ranges(fields, rows, product):
    """Return the least and greatest M of every field after `rows` rows of products to `product`."""
    ranges, carries = [], (0, 0)
    for field in fields:
        low, high = carries[0] - rows * product, carries[1] + rows * product
        ranges.append((low, high))
        carries = low >> field.width, high >> field.width
    return ranges


def plan_chains(rows, longest):
    """Return the lengths of the fewest and most even chains of up to `longest` of `rows` slices.

    Even chains leave the placer the most room: 24 rows are three chains of 8, not 10, 10 and 4.
    """
    count = -(-rows // longest)
    return [(rows + k) // count for k in reversed(range(count))]


def plan_narrow(wide, bits, *, dsp=DSP48E1):
    """Return the `Packing` of a second precision in the slices of an array planned as `wide`.

    Both operands have `bits`, and each slice holds twice the weights: two of them in the bits of
    one of `wide`.

    Raises
    ------
    PackingError
        If these precisions cannot share slices; the message has the reason.
    """
    names = (f"{bits}-bit operands cannot share slices with {wide.weight_bits}-bit weights and "
             f"{wide.act_bits}-bit activations")
    most = min(wide.weight_bits, wide.act_bits) // 2
    if wide.tokens > 1 or wide.weight_bits % 2 or not 2 <= bits <= most:
        raise PackingError(f"{names}: those weights must have an even number of bits, these "
                           f"operands 2 to half of theirs, with one vector per cycle")
    plans = [plan for run in range(1, 2 * wide.group + 1) if 2 * wide.group % run == 0
             for plan in [_plan(bits, bits, wide.rows, 2 * wide.group, 1, run, dsp, 1)] if plan]
    if not plans:
        raise PackingError(f"{names}: {2 * wide.group} products of {bits} bits do not fit the "
                           f"slice of a {dsp.name} in columns of {wide.rows}")
    return min(plans, key=lambda plan: plan.cost)


def plan_packing(weight_bits, act_bits, rows, *, cols=None, dsp=DSP48E1, max_tokens=1,
                 least_gap=1):
    """Return the densest `Packing`; among equals fewest tokens, then the least logic.

    Parameters
    ----------
    weight_bits, act_bits : int
        Bits of the operands, 2 to 8.
    rows : int
        Slices in a column, whose products are added.
    cols : int, optional
        Columns of the array, which the weights of a slice must divide.
    dsp : Slice
        Port widths.
    max_tokens : int
        Greatest number of activation vectors per cycle.
    least_gap : int
        Least rows between taps; 2 keeps the logic small where slices are plentiful.

    Raises
    ------
    PackingError
        If not even two products fit.
    ValueError
        If a number is out of range; the message names it.
    """
    for name, value, low, high in (
            ("weight_bits", weight_bits, 2, 8), ("act_bits", act_bits, 2, 8),
            ("rows", rows, 1, 1 << 16), ("cols", 1 if cols is None else cols, 1, 1 << 16),
            ("max_tokens", max_tokens, 1, 64), ("least_gap", least_gap, 1, 1 << 16)):
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{name} must be an integer from {low} to {high}, not {value!r}")
    plans = []
    for group in range(1, dsp.weight_port // 2 + 1):
        if cols is not None and cols % group:
            continue
        for tokens in range(1, max_tokens + 1):
            for run in range(1, group + 1):
                if group % run == 0 and group * tokens > 1:
                    plans.append(_plan(weight_bits, act_bits, rows, group, tokens, run, dsp,
                                       least_gap))
    plans = [plan for plan in plans if plan]
    if plans:
        return min(plans, key=lambda p: (-p.macs_per_dsp, p.tokens, p.cost))
    product = _largest_product(weight_bits, act_bits)
    width = 2
    while not _steps(width, product * least_gap):
        width += 1
    raise PackingError(
        f"{weight_bits}-bit weights with {act_bits}-bit activations cannot be packed: products to "
        f"{product} need fields {width} bits apart, so two weights {width + weight_bits} bits and "
        f"two activations {width + act_bits + 1}, but the ports of {dsp.name} have "
        f"{dsp.weight_port} and {dsp.act_port} bits, {max_tokens} activation vectors are allowed"
        + (f" and weights must divide {cols} columns" if cols is not None else ""))


def _plan(weight_bits, act_bits, rows, group, tokens, run, dsp, least_gap):
    """Return the `Packing` for this arrangement with the widest fields that fit, or None.

    Fields are evenly spaced: `run` weights, then the same for the next token, and so on, then the
    next `run` weights.
    """
    weight, act = (1 << weight_bits - 1) - 1, 1 << act_bits - 1
    places = {"weight": [i % run + i // run * run * tokens for i in range(group)],
              "act": [j * run for j in range(tokens)], "sum": range(group * tokens)}
    ports = {"weight": dsp.weight_port, "act": dsp.act_port, "sum": dsp.sum_port}
    largest = {"weight": weight, "act": act, "sum": rows * weight * act}

    def fits(spacing):
        return all(_signed_bits(_largest_sum(largest[name], [spacing * k for k in places[name]]))
                   <= ports[name] for name in ports)

    spacing = 1
    while spacing < dsp.sum_port and fits(spacing + 1):
        spacing += 1
    if spacing == 1:
        return None
    order = sorted((p + q, i, j) for i, p in enumerate(places["weight"])
                   for j, q in enumerate(places["act"]))
    fields, logic = [], 0
    for k, (_, i, j) in enumerate(order):
        if k == len(order) - 1:
            fields.append(Field(i, j, k * spacing, _signed_bits(largest["sum"]), 0, rows, ()))
            break
        found = _taps(fields, spacing, rows, weight * act, least_gap)
        if found is None:
            return None
        cost, seen, first, taps = found
        fields.append(Field(i, j, k * spacing, spacing, seen, first, taps))
        logic += cost
    logic += rows * tokens * (act_bits + 1)  # activations to the next slice
    return Packing(weight_bits, act_bits, rows, tuple(spacing * p for p in places["weight"]),
                   tuple(spacing * q for q in places["act"]), tuple(fields),
                   logic / (rows * group * tokens))


def _taps(below, width, rows, product, least_gap):
    """Return ``(cost, seen, first, taps)`` of the cheapest taps for a field, or None.

    `below` are the fields under it.
    """
    def ranges(count):
        field = Field(0, 0, 0, width, 0, rows, ())
        return field_ranges([*below, field], count, product)[-1]

    def change(gap):
        most = 0
        for field in below:
            most = -(-(gap * product + most) // (1 << field.width))
        return gap * product + most

    first = 0
    while first < rows and ranges(first + 1)[0] >= -1 << width - 1 > ranges(first + 1)[1] - (
            1 << width):
        first += 1
    if first == rows:
        return 0, 0, rows, ()
    if not first:
        return None
    best = None
    for gap in range(least_gap, rows + 1):
        seen = _steps(width, change(gap))
        if not seen:
            break
        taps = tuple(sorted(range(rows, first, -gap)))
        low, high = (value >> width for value in ranges(rows))
        state = seen + _signed_bits(max(-low - 1, high))
        flipflops, luts = (gap * state, 0) if gap < 3 else (state, state)
        cost = len(taps) * (flipflops + luts + state)
        if best is None or cost < best[0]:
            best = cost, seen, max(taps[0] - gap, 1), taps
    return best


def _steps(width, change):
    """Return the fewest top bits of a field that tell changes up to `change` apart, or 0."""
    for seen in range(2, width + 1):
        if -(-change >> width - seen) <= (1 << seen - 1) - 1:
            return seen
    return 0


def _largest_product(weight_bits, act_bits):
    return ((1 << weight_bits - 1) - 1) << act_bits - 1


def _largest_sum(value, offsets):
    return sum(value << offset for offset in offsets)


def _signed_bits(value):
    """Return the bits of a signed number that holds -value .. value."""
    return value.bit_length() + 1
