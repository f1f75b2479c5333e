"""The operators computed by simulated Verilog, with the signatures of the models in ``sim/``.

`RtlEngine` compiles a unit the first time it is needed and keeps its simulation up. Everything is
at full width: 31-bit multipliers, wide biases, 8-bit operands with 16-bit attention in digits.
"""

import numpy as np

from systola.hw.contract.config import digit_count
from systola.hw.contract.numbers import GELU_SHIFT, INT_BITS, SOFTMAX_SHIFT
from systola.model.operators.matmul import split_digits
from systola.sim.verilog.payload_bytes import pack, unpack
from systola.sim.verilog.runner import Session, build_component

__all__ = ["RtlEngine"]

LANES = 4
MULT_BITS = INT_BITS
WIDE_BITS = 40
"""Bits of accumulators and biases: I-LayerNorm biases exceed 32 bits."""

SHARE_BITS, CODE_BITS = 17, 5
"""Bits of shares of attention, signed, and of how many thresholds they exceed."""

ROWS, COLS = 16, 8
ACC_BITS = 40
DEPTH = 64
DIGITS = digit_count(16, 8)
_PATIENCE = 2000


class RtlEngine:
    """Operators on simulated units; a context manager that ends the simulations.

    Parameters
    ----------
    seed : int, optional
        Seed of random stalls on all streams; none by default.
    simulator : str
        ``verilator`` or ``icarus``.
    progress : callable, optional
        Called as ``progress(text=...)`` before a unit is compiled.

    Attributes
    ----------
    cycles : dict of str to int
        Simulated cycles by unit.
    judged_only : bool
        Tells `systola.sim.conform.conform` not to spend simulation on what it only shows.
    """

    judged_only = True

    def __init__(self, *, seed=None, simulator="verilator", progress=None):
        self.seed, self.simulator = seed, simulator
        self.progress = progress or (lambda text: None)
        self.cycles = {}
        self._sessions = {}
        self._rng = np.random.default_rng(seed)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def requantize(self, z, mult, shift, bits, *, residual=None, res_mult=None,
                   res_shift=None):
        """Return what `systola.model.operators.requant.requantize` does, for 2 to 16 bits."""
        pair = (0, 0) if residual is None else (res_mult, res_shift)
        args = np.broadcast_arrays(z, mult, shift, 0 if residual is None else residual, *pair)
        shape, args = args[0].shape, [np.ravel(a).astype(np.int64) for a in args]
        out = np.empty(args[0].size, np.int64)
        scales, which = np.unique(np.stack(args[4:]), axis=1, return_inverse=True)
        for index, (res_mult, res_shift) in enumerate(_renormalised(*scales).T):
            chosen = which.ravel() == index
            out[chosen] = self._requantize(*(a[chosen] for a in args[:4]), bits,
                                           None if residual is None else (res_mult, res_shift))
        return out.reshape(shape)

    def _requantize(self, z, mult, shift, residual, bits, scale):
        count = len(z)
        mult, shift = _renormalised(mult, shift)
        # The unit adds a bias first: give it a random part of z.
        bias = self._rng.integers(-2**33, 2**33, count)
        z, bias, mult, shift, residual = (
            np.concatenate([a, np.zeros(-count % LANES, np.int64)]).reshape(-1, LANES)
            for a in (z - bias, bias, mult, shift, residual))
        fields = [(z, WIDE_BITS)]
        for lane in range(LANES):
            fields += [(bias[:, lane], WIDE_BITS), (mult[:, lane], MULT_BITS + 1),
                       (shift[:, lane], 6)]
        fields += [(np.full(len(z), bits), 5), (np.zeros(len(z)), 2), (residual, 16),
                   (np.full(len(z), scale is not None), 1)]
        res_mult, res_shift = (0, 0) if scale is None else map(int, scale)
        got = self._run("requantizer", {}, {"i": pack(fields)}, {"o": len(z)},
                        {"res_mult": res_mult, "res_shift": res_shift})
        return unpack(got["o"], [(LANES, 16, True)])[0].ravel()[:count]

    def shiftmax(self, x, x0, n=SOFTMAX_SHIFT, bits=16):
        """Return what `systola.model.operators.shiftmax.shiftmax` does."""
        key = {"in_bits": _code_bits(x), "unit_bits": _unit_bits(x0), "n": n, "out_bits": bits}
        return self._rows("shiftmax", key, x, key["in_bits"], (bits, False), {"unit": -int(x0)})

    def shiftgelu(self, x, x0, n=GELU_SHIFT, bits=8):
        """Return what `systola.model.operators.shiftgelu.shiftgelu` does."""
        key = {"in_bits": _code_bits(x), "unit_bits": _unit_bits(x0), "n": n, "out_bits": bits}
        return self._rows("shiftgelu", key, x, key["in_bits"], (key["in_bits"] + bits, True),
                          {"unit": -int(x0)})

    def layernorm(self, x, variant="published"):
        """Return what `systola.model.operators.layernorm.layernorm` does."""
        return self._rows("layernorm", {"variant": variant}, x, 16, (32, True), {})

    def matmul(self, x, w):
        """Return ``x @ w.T`` of 8-bit codes, as `systola.model.operators.matmul.matmul` does."""
        return self._batched(lambda a, b: self._product(a[None], b), x, w)

    def linear(self, x, weight, bias=None):
        """Return `matmul` plus the bias, which the hardware adds in the requantizer."""
        acc = self.matmul(x, weight)
        return acc if bias is None else acc + np.asarray(bias, np.int64)

    def digit_matmul(self, a, v, *, digit_bits=8, digits=DIGITS):
        """Return ``a @ v`` for non-negative 16-bit `a`, as `operators.matmul.digit_matmul`."""
        if digit_bits != 8 or digits > DIGITS:
            raise ValueError(f"digit_bits must be 8 and digits at most {DIGITS}, "
                             f"not {digit_bits!r} and {digits!r}")
        return self._batched(
            lambda part, w: self._product(split_digits(part, digit_bits, digits), w),
            a, np.swapaxes(np.asarray(v), -1, -2))

    def search(self, x, thresholds):
        """Return how many of up to 31 sorted `thresholds` each of the integers `x` exceeds."""
        x, most = np.asarray(x, np.int64), (1 << CODE_BITS) - 1
        levels = np.full(most, (1 << SHARE_BITS - 1) - 1)  # no x is above that
        levels[:len(thresholds)] = thresholds
        level, lane = (part.ravel() for part in np.indices((most + 1, LANES)))
        writes = pack([(lane, (LANES - 1).bit_length()), (level, CODE_BITS),
                       (np.where(level, levels[level - 1], 0), SHARE_BITS + 1)])
        # What enters while thresholds are written is twice as much, so that all are.
        self._run("thresholds", {}, {"w": writes, "i": np.zeros((2 * len(writes), 9), np.uint8)},
                  {"o": 2 * len(writes)}, {})
        rows = _padded(x.reshape(1, -1), axis=1, to=-(-x.size // LANES) * LANES)
        rows = rows.reshape(-1, LANES)
        got = self._run("thresholds", {}, {"i": pack([(rows, SHARE_BITS)])}, {"o": len(rows)}, {})
        codes = unpack(got["o"], [(LANES, CODE_BITS, True)])[0]
        return (codes.ravel()[:x.size] + (1 << CODE_BITS - 1)).reshape(x.shape)

    def _batched(self, product, x, w):
        x, w = np.asarray(x, np.int64), np.asarray(w, np.int64)
        lead = np.broadcast_shapes(x.shape[:-2], w.shape[:-2])
        xs = np.broadcast_to(x, lead + x.shape[-2:]).reshape(-1, *x.shape[-2:])
        ws = np.broadcast_to(w, lead + w.shape[-2:]).reshape(-1, *w.shape[-2:])
        if w.ndim == 2 and x.ndim > 2:  # one set of weights: all rows in a single product
            return product(x.reshape(-1, x.shape[-1]), w).reshape(*lead, x.shape[-2], len(w))
        return np.stack([product(a, b) for a, b in zip(xs, ws, strict=True)]).reshape(
            *lead, x.shape[-2], w.shape[-2])

    def _product(self, planes, w):
        """Multiply digit `planes` (digits, T, K) by `w` (N, K), tile by tile."""
        tokens, outputs, words = planes.shape[1], len(w), -(-planes.shape[2] // ROWS)
        # At least two rows a pass: an entry of the accumulators takes a sum every other cycle.
        planes = _padded(planes, axis=1, to=max(tokens, 2))
        planes = _padded(planes, axis=2, to=words * ROWS).reshape(*planes.shape[:2], words, ROWS)
        tiles = _padded(_padded(w, axis=1, to=words * ROWS), axis=0, to=-(-outputs // COLS) * COLS)
        tiles = tiles.reshape(-1, COLS, words, ROWS).swapaxes(1, 2)
        chunks = [slice(t, t + DEPTH) for t in range(0, planes.shape[1], DEPTH)]
        if planes.shape[1] % DEPTH == 1:  # no chunk of one row
            chunks[-2:] = [slice(chunks[-2].start, chunks[-2].stop - 2),
                           slice(chunks[-2].stop - 2, None)]
        beats = [_pass_beats(planes[:, chunk]) for chunk in chunks]
        act = np.concatenate([beat for _ in tiles for beat in beats])
        weights = np.concatenate([tile.reshape(-1, ROWS) for tile in tiles for _ in chunks])
        got = self._run("matmul", {}, {"act": act, "w": pack([(weights, 8)])},
                        {"o": len(tiles) * planes.shape[1]}, {})
        sums = unpack(got["o"], [(COLS, ACC_BITS, True)])[0].reshape(len(tiles), -1, COLS)
        return np.concatenate(sums, axis=1)[:tokens, :outputs]

    def _rows(self, name, key, x, bits, out, static):
        """Send the rows of `x` through a vector unit and return the rows that come out."""
        x = np.asarray(x, np.int64)
        length = x.shape[-1]
        beats = -(-length // LANES)
        rows = _padded(x.reshape(-1, length), axis=1, to=beats * LANES)
        keep = np.tile(np.arange(beats * LANES) < length, (len(rows), 1)).reshape(-1, LANES)
        last = np.tile(np.arange(beats) == beats - 1, len(rows))
        key = {**key, "max_row": max(1024, 1 << (length - 1).bit_length())}
        got = self._run(name, key, {"i": pack([(rows.reshape(-1, LANES), bits), (keep, 1),
                                               (last, 1)])}, {"o": len(last)}, static)
        y, kept, ends = unpack(got["o"], [(LANES, *out), (LANES, 1, False), (1, 1, False)])
        if not (kept == keep).all() or not (ends[:, 0] == last).all():
            raise AssertionError(f"{name} changed keep or last")
        return y.reshape(len(rows), -1)[:, :length].reshape(x.shape)

    def _run(self, name, key, inputs, outputs, static):
        """Run one task on the unit `name` with parameters `key`, compiled if need be."""
        session = (name, *sorted(key.items()))
        if session not in self._sessions:
            self.progress(text=f"compiling {name}")
            built = build_component(lambda: _make(name, key), name=f"unit_{name}", key=[key],
                                    simulator=self.simulator)
            self._sessions[session] = Session(built, "systola.sim.benches.unit")
        results, arrays = self._sessions[session].run(
            {"outputs": outputs, "static": static, "seed": self.seed, "patience": _PATIENCE},
            inputs)
        self.cycles[name] = self.cycles.get(name, 0) + results["cycles"]
        if results["left"]:
            raise AssertionError(f"{name} left {results['left']} beats")
        return arrays


def _make(name, key):
    """Return the Amaranth component of a unit."""
    if name == "requantizer":
        from systola.hw.parts.requant import Requantizer

        return Requantizer(lanes=LANES, in_bits=WIDE_BITS, mult_bits=MULT_BITS,
                           code_mult_bits=MULT_BITS, bias_bits=WIDE_BITS, residual=True)
    if name == "matmul":
        from systola.sim.conform.matmul_unit import MatmulUnit

        return MatmulUnit(rows=ROWS, cols=COLS, act_bits=8, weight_bits=8, style="dsp",
                          digits=DIGITS, acc_bits=ACC_BITS, depth=DEPTH)
    if name == "thresholds":
        from systola.hw.parts.threshold_quantizer import ThresholdQuantizer

        return ThresholdQuantizer(lanes=LANES, in_bits=SHARE_BITS, bits=CODE_BITS, sets=1)
    if name == "shiftmax":
        from systola.hw.vector.shiftmax import Shiftmax

        return Shiftmax(lanes=LANES, **key)
    if name == "shiftgelu":
        from systola.hw.vector.shiftgelu import ShiftGelu

        return ShiftGelu(lanes=LANES, **key)
    from systola.hw.vector.layernorm import ILayerNorm

    return ILayerNorm(lanes=LANES, **key)


def _pass_beats(planes):
    """Return the beats of all passes of one tile: for every word and digit plane, every row."""
    digits, tokens, words, _ = planes.shape
    x = planes.transpose(2, 0, 1, 3).reshape(-1, ROWS)
    word, digit, t = (a.ravel() for a in np.indices((words, digits, tokens)))
    end = (word == words - 1) & (digit == digits - 1) & (t == tokens - 1)
    return pack([(x, 9), (t, (DEPTH - 1).bit_length()), (0 * t, 1),
                 (digit, (DIGITS - 1).bit_length()), ((word == 0) & (digit == 0), 1), (end, 1),
                 ((digit == 0) & (t == 0), 1)])


def _padded(a, *, axis, to):
    widths = [(0, 0)] * a.ndim
    widths[axis] = 0, to - a.shape[axis]
    return np.pad(a, widths)


def _renormalised(mult, shift):
    """Return the same ratios with multipliers below 2**31, which published ones may reach."""
    large = np.abs(mult) == 1 << MULT_BITS
    return np.stack([np.where(large, mult >> 1, mult), np.where(large, shift - 1, shift)])


def _code_bits(x):
    x = np.asarray(x)
    return 8 if x.size == 0 or -128 <= x.min() <= x.max() <= 127 else 16


def _unit_bits(x0):
    return 12 if -int(x0) < 1 << 12 else 24
