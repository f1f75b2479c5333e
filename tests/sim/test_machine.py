from dataclasses import replace

import numpy as np
import pytest

from systola.hw.contract.config import PUBLISHED, AcceleratorConfig
from systola.hw.contract.isa import FORMATS, Engine, Error, Flag, Opcode, encode
from systola.hw.contract.numbers import LEVELS
from systola.model.operators.deferred import deferred_softmax, exp_table, row_factors
from systola.model.operators.layernorm import layernorm_requant
from systola.model.operators.log2_exponentials import leveled_table, nearest_codes
from systola.model.operators.norm_codes import norm_codes
from systola.model.operators.normalised import normalised_softmax
from systola.model.operators.requant import requantize
from systola.model.operators.row_mean import row_mean
from systola.model.operators.shiftgelu import shiftgelu
from systola.model.operators.shiftmax import shiftmax
from systola.sim.machine.machine import DeadlockError, Machine, MachineError, ProgramFault
from systola.sim.machine.memories import Memories

CONFIG = AcceleratorConfig(rows=3, cols=2, lanes=1, act_bits=5, weight_bits=4, token_depth=4,
                           banks=2, bank_depth=64, weight_fifo=8, param_depth=16, max_row=8,
                           x0_bits=6, **PUBLISHED)
BEAT = CONFIG.bus_bytes
REGION = {"base": 0, "stride": 2, "rows": 2, "words": 2}
VECTOR = {"src_base": 0, "src_stride": 2, "src_plane": 8, "rows": 2, "words": 2, "lanes_last": 2,
          "dst_base": 40, "dst_stride": 2, "dst_plane": 8}
MATMUL = {"act_base": 0, "act_stride": 2, "act_plane": 0, "rows": 2, "act_words": 2, "digits": 1,
          "words": 2, "lanes_last": 2, "out_base": 40, "out_stride": 2, "out_plane": 8,
          "out_group": 0, "out_bits": 8, "param_base": 0, "flags": 0,
          "factor_base": 0, "res_base": 0, "res_stride": 0,
          "res_plane": 0, "res_mult": 0, "res_shift": 0}
FETCH = {"base": 16, "stride": 2, "rows": 5, "words": 2, "lanes_last": 2, "flags": 0}


UNUSED = {"numerator": 0, "factor_base": 0, "table": 0, "epsilon_low": 0, "epsilon_high": 0,
          "share": 0, "key_words": 2, "key_last": 2, "key_step": 0}


def op(opcode, defaults=(), *, data=b"", wait=0, signal=0, **fields):
    known = {field.name for field in FORMATS[opcode].fields}
    fields = {**{name: UNUSED[name] for name in UNUSED if name in known}, **dict(defaults),
              **fields}
    if "beats" not in fields and opcode.name.startswith("LOAD"):
        fields["beats"] = len(data) // BEAT
    return encode(opcode, wait=wait, signal=signal, **fields) + data


def words(values):
    """Return the stream beats of words (n, R)."""
    beats = np.full((len(values), BEAT), 0xEE, np.uint8)  # the bytes above lane R do not matter
    beats[:, :CONFIG.rows] = np.asarray(values).astype(np.uint8)
    return beats.tobytes()


def lanes(values, count=6):
    """Return words of rows of `count` lanes."""
    values = np.asarray(values)
    padded = np.zeros((len(values), count), np.int64)
    padded[:, :values.shape[1]] = values
    return padded.reshape(-1, CONFIG.rows)


def params(bias, mult, shift):
    raw = b"".join(int(b).to_bytes(4, "little", signed=True)
                   + int(m).to_bytes(4, "little", signed=True)
                   + bytes([s]) + bytes(CONFIG.param_beats * BEAT - 9)
                   for b, m, s in zip(bias, mult, shift, strict=True))
    return op(Opcode.LOAD_PARAMS, data=raw, base=0, count=len(bias))


def program(*instructions):
    begin = encode(Opcode.BEGIN, config_hash=CONFIG.hash)
    return b"".join((begin, *instructions, encode(Opcode.END)))


def chain(*instructions):
    """Return a program whose instructions run strictly one after another."""
    out = []
    for index, (opcode, fields, data) in enumerate(instructions):
        own = FORMATS[opcode].engine
        before = FORMATS[instructions[index - 1][0]].engine if index else own
        after = FORMATS[instructions[index + 1][0]].engine if index + 1 < len(instructions) else own
        out.append(op(opcode, fields, data=data, wait=0 if before == own else 1 << before,
                      signal=0 if after == own else 1 << after))
    return program(*out)


def result(stream, config=CONFIG, seeds=(None, 0, 1, 2)):
    """Return the last frame, the same under several schedules, as signed lanes (rows, 6)."""
    frames = []
    for seed in seeds:
        machine = Machine(config, seed)
        machine.memories.words[:] = 0
        frames.append(machine.run(stream)[-1])
    assert all(np.array_equal(frame, frames[0]) for frame in frames)
    return frames[0].view(np.int8).astype(np.int64)


def after_parameters(bias, mult, shift, *rest):
    """Return instructions that load parameters and then run `rest` with `chain`."""
    load = params(bias, mult, shift)
    return [(Opcode.LOAD_PARAMS, {"base": 0, "count": len(bias)}, load[64:]), *rest]


STORE_OUT = (Opcode.STORE, {**REGION, "base": 40}, b"")


def test_load_and_store_keep_words_and_leave_the_gaps():
    values = np.arange(12).reshape(4, 3)
    stream = program(op(Opcode.LOAD, REGION, data=words(values), stride=5, base=3),
                     op(Opcode.STORE, base=3, stride=1, rows=1, words=7))
    frame, = Machine(CONFIG).run(stream)
    assert frame.tolist() == [*values[:2].tolist(), *[[0] * 3] * 3, *values[2:].tolist()]


def test_frames_come_in_order():
    stream = program(op(Opcode.LOAD, REGION, data=words(np.arange(12).reshape(4, 3))),
                     *(op(Opcode.STORE, base=k, stride=1, rows=1, words=1) for k in range(4)))
    assert [frame[0, 0] for frame in Machine(CONFIG, 5).run(stream)] == [0, 3, 6, 9]


def test_memories_keep_their_contents_between_runs():
    machine = Machine(CONFIG)
    machine.run(program(op(Opcode.LOAD, REGION, data=words(np.full((4, 3), 7)))))
    frame, = machine.run(program(op(Opcode.STORE, REGION)))
    assert (frame == 7).all()
    assert machine.instructions == 3


def matmul_stream(feeder, *, x, k_rows=(), act=(), bias=(0,) * 5, mult=(1,) * 5, shift=(0,) * 5,
                  residual=None, **fields):
    parts = [op(Opcode.LOAD, data=words(lanes(x)), base=0, stride=2, rows=len(x), words=2),
             params(bias, mult, shift)]
    if len(k_rows):
        parts.append(op(Opcode.LOAD, data=words(lanes(k_rows)), base=16, stride=2,
                        rows=len(k_rows), words=2))
    if residual is not None:
        parts.append(op(Opcode.LOAD, data=words(lanes(residual)), base=64, stride=2,
                        rows=len(residual), words=2))
    parts[-1] = parts[-1][:1] + bytes([parts[-1][1] | 1 << Engine.MATRIX + 3]) + parts[-1][2:]
    fields = {**MATMUL, **fields}
    wide = fields["out_bits"] > 8
    parts += [op(Opcode.MATMUL, fields, wait=1, signal=1), feeder,
              op(Opcode.STORE, wait=1 << Engine.MATRIX, base=40, stride=2,
                 rows=8 if wide else 2, words=2)]
    return program(*parts)


RNG = np.random.default_rng(0)
X = RNG.integers(-16, 16, (2, 5))
W = RNG.integers(-8, 8, (5, 5))
PADDED = np.zeros((6, 6), np.int64)
PADDED[:5, :5] = W
TILES = op(Opcode.LOAD_WEIGHTS, data=words(
    PADDED.reshape(3, 2, 2, 3).transpose(0, 2, 1, 3).reshape(-1, 3)))


def test_matmul_from_the_stream():
    bias, mult, shift = [5, -3, 100, 0, 7], [3, -5, 7, 1 << 23, 1], [1, 2, 3, 22, 0]
    frame = result(matmul_stream(TILES, x=X, bias=bias, mult=mult, shift=shift))
    expected = requantize(X @ W.T + bias, np.array(mult), np.array(shift), 8)
    assert frame.reshape(2, 6)[:, :5].tolist() == expected.tolist()


def test_fetch_of_rows_and_of_columns():
    for flags, product in ((0, X @ W.T), (Flag.TRANSPOSE, X @ W)):
        feeder = op(Opcode.FETCH, FETCH, flags=flags)
        frame = result(matmul_stream(feeder, x=X, k_rows=W, mult=[1] * 5, shift=[2] * 5))
        expected = requantize(product, 1, 2, 8)
        assert frame.reshape(2, 6)[:, :5].tolist() == expected.tolist()


def test_lanes_beyond_the_region_count_for_nothing():
    noisy = np.full((2, 6), 13)
    noisy[:, :5] = X
    k_noisy = np.full((5, 6), 77)
    k_noisy[:, :5] = W
    for flags, product in ((0, X @ W.T), (Flag.TRANSPOSE, X @ W)):
        stream = matmul_stream(op(Opcode.FETCH, FETCH, flags=flags), x=noisy, k_rows=k_noisy,
                               shift=[2] * 5)
        frame = result(stream, seeds=(None,)).reshape(2, 6)
        assert frame[:, :5].tolist() == requantize(product, 1, 2, 8).tolist()
        assert frame[:, 5].tolist() == [0, 0]


def test_residual_broadcast_and_16_bits():
    residual = RNG.integers(0, 256, (4, 5))
    values = (residual[2:] << 8 | residual[:2]).astype(np.uint16).view(np.int16).astype(np.int64)
    fields = {"flags": Flag.RESIDUAL | Flag.BROADCAST, "out_bits": 13, "res_base": 64,
              "res_stride": 2, "res_plane": 4, "res_mult": -3, "res_shift": 5}
    frame = result(matmul_stream(TILES, x=X, bias=[4], mult=[9], shift=[1], residual=residual,
                                 **fields))
    planes = frame.reshape(8, 6)[:, :5]
    expected = requantize(X @ W.T + 4, 9, 1, 13, residual=values, res_mult=-3, res_shift=5)
    assert ((planes[:2] & 255) + (planes[4:6] << 8)).tolist() == expected.tolist()


def test_digits_weigh_and_only_the_top_one_is_unsigned():
    planes = np.concatenate([X, RNG.integers(0, 32, (2, 5))])
    frame = result(matmul_stream(TILES, x=planes, digits=2, act_plane=4, shift=[6] * 5,
                                 flags=Flag.UNSIGNED))
    acc = (planes[:2] + (planes[2:] << CONFIG.act_bits)) @ W.T
    assert frame.reshape(2, 6)[:, :5].tolist() == requantize(acc, 1, 6, 8).tolist()


def test_operands_keep_their_low_bits_and_the_sign_above():
    frame = result(matmul_stream(TILES, x=X + 64, shift=[2] * 5))
    assert frame.reshape(2, 6)[:, :5].tolist() == requantize(X @ W.T, 1, 2, 8).tolist()


def vector(opcode, x, *, bias=(0,), mult=(1,), shift=(0,), **fields):
    fields = {**VECTOR, **fields}
    rows = fields["dst_plane"] * CONFIG.attention_digits // 2 if opcode is Opcode.SHIFTMAX else 2
    load = (Opcode.LOAD, {"base": 0, "stride": 2, "rows": len(x), "words": 2}, words(lanes(x)))
    return result(chain(*after_parameters(bias, mult, shift, load, (opcode, fields, b""),
                                          (Opcode.STORE, {**REGION, "base": 40, "rows": rows},
                                           b"")))).reshape(rows, 6)[:, :5]


def test_shiftmax_gives_digit_planes():
    x = RNG.integers(-128, 128, (2, 5))
    planes = vector(Opcode.SHIFTMAX, x, unit=20).reshape(-1, 4, 5)[:, :2]
    assert len(planes) == CONFIG.attention_digits == 4
    assert abs(planes[:3]).max() <= 16
    total = sum((plane if k < 3 else plane & 31) << 5 * k for k, plane in enumerate(planes))
    assert total.tolist() == shiftmax(x, -20).tolist()


def test_shiftgelu_uses_record_0():
    x = RNG.integers(-128, 128, (2, 5))
    out = vector(Opcode.SHIFTGELU, x, unit=20, out_bits=5, param_base=0, bias=[3], mult=[77],
                 shift=[15])
    assert out.tolist() == requantize(shiftgelu(x, -20) + 3, 77, 15, 5).tolist()


def test_layernorm_reads_two_planes():
    raw = RNG.integers(0, 256, (8, 5))
    x = (raw[4:6] << 8 | raw[:2]).astype(np.uint16).view(np.int16).astype(np.int64)
    bias, mult, shift = RNG.integers(-2**30, 2**30, 5), [1, 2, -3, 4, 5], [22, 23, 24, 25, 26]
    out = vector(Opcode.LAYERNORM, raw, out_bits=5, param_base=0, bias=bias, mult=mult,
                 shift=shift)
    expected = layernorm_requant(x, bias, np.array(mult), np.array(shift), 5, "published")
    assert out.tolist() == expected.tolist()


def test_a_compared_norm_has_a_share_and_no_parameters():
    config = AcceleratorConfig(**{**CONFIG.to_dict(), "norm": "compared", "act_bits": 4})
    memories, rng = Memories(config), np.random.default_rng(9)
    x, got = rng.integers(-40, 41, (2, 5)), set()
    for share, bits, high, low in ((2**24, 4, 0, 0), (2**26, 3, 0, 0), (2**29, 2, 0, 17),
                                   (2**32 - 1, 4, config.largest_epsilon_high, 2**32 - 1)):
        fields = {**VECTOR, "out_bits": bits, "param_base": 0, "share": share,
                  "epsilon_low": low, "epsilon_high": high}
        memories.finish_vector(Opcode.LAYERNORM, fields, x)
        y = memories.read(fields, "dst_", 2)[0, :, :5].view(np.int8)
        assert y.tolist() == norm_codes(x, share, bits, high * 2**32 + low).tolist()
        got.add(y.tobytes())
    assert len(got) == 4


def test_an_epsilon_has_two_halves():
    config = AcceleratorConfig(**{**CONFIG.to_dict(), "norm": "normalised"})
    memories, rng = Memories(config), np.random.default_rng(8)
    x = rng.integers(-40, 41, (2, 5))
    memories.bias[0], memories.mult[:5], memories.shift[:5] = 5, 127, 31
    fields = {**VECTOR, "out_bits": 8, "param_base": 0}
    got = set()
    for high, low in (0, 0), (0, 2**32 - 1), (3, 17), (config.largest_epsilon_high, 0):
        memories.finish_vector(Opcode.LAYERNORM, {
            **fields, "epsilon_low": low, "epsilon_high": high}, x)
        y = memories.read(fields, "dst_", 2)[0, :, :5].view(np.int8)
        bias, mult, shift = memories.records(0, 5)
        assert y.tolist() == layernorm_requant(
            x, bias, mult, shift, 8, "normalised", high * 2**32 + low).tolist()
        got.add(y.tobytes())
    assert len(got) >= 3


def test_table():
    config = AcceleratorConfig(**{**CONFIG.to_dict(), "gelu": "table"})
    table = RNG.integers(-128, 128, 256)
    x = RNG.integers(-128, 128, (2, 5))
    data = words(np.concatenate([table, [9, 9]]).reshape(-1, 3))
    stream = chain((Opcode.LOAD, REGION, words(lanes(x))), (Opcode.LOAD_TABLE, {}, data),
                   (Opcode.SHIFTGELU, {**VECTOR, "unit": 1, "out_bits": 8, "param_base": 0}, b""),
                   STORE_OUT)
    stream = encode(Opcode.BEGIN, config_hash=config.hash) + stream[64:]
    out = result(stream, config).reshape(2, 6)[:, :5]
    assert out.tolist() == table[x + 128].tolist()


MEANS = AcceleratorConfig(**{**CONFIG.to_dict(), "pooling": "mean", "code_mult_bits": 12})


@pytest.mark.parametrize("wide", [0, 1])
@pytest.mark.parametrize("out_bits", [2, 8, 9, 16])
def test_mean_of_one_or_two_planes(wide, out_bits):
    """Four rows; the last one has another sum in its lanes beyond the fifth, which do not count."""
    raw = RNG.integers(0, 256, (8, 6))
    x = raw[:4].astype(np.uint8).view(np.int8).astype(np.int64)
    if wide:
        x = (raw[4:] << 8 | raw[:4]).astype(np.uint16).view(np.int16).astype(np.int64)
    fields = {**VECTOR, "rows": 4, "wide": wide, "mult": 3001, "shift": 13, "out_bits": out_bits}
    stream = chain((Opcode.LOAD, {"base": 0, "stride": 2, "rows": 8, "words": 2},
                    words(lanes(raw))),
                   (Opcode.MEAN, fields, b""), (Opcode.STORE, {**REGION, "base": 40, "rows": 5},
                                                b""))
    stream = encode(Opcode.BEGIN, config_hash=MEANS.hash) + stream[64:]
    frame = result(stream, MEANS).reshape(5, 6)
    expected = row_mean(x[:, :5], 3001, 13, out_bits)
    got = frame[0, :5]
    if out_bits > 8:
        got = (got & 255) + (frame[4, :5] << 8)
        assert frame[4, :5].any()
    assert got.tolist() == expected.tolist()
    assert not frame[1:4].any()


def test_mean_over_its_first_row():
    raw = RNG.integers(-128, 128, (2, 5))
    fields = {**VECTOR, "wide": 0, "mult": 1, "shift": 1, "out_bits": 8, "dst_base": 0}
    stream = chain((Opcode.LOAD, REGION, words(lanes(raw))), (Opcode.MEAN, fields, b""),
                   (Opcode.STORE, REGION, b""))
    stream = encode(Opcode.BEGIN, config_hash=MEANS.hash) + stream[64:]
    frame = result(stream, MEANS).reshape(2, 6)[:, :5]
    assert frame.tolist() == [row_mean(raw, 1, 1, 8).tolist(), raw[1].tolist()]


def test_symmetric_saturation():
    for flags, lowest in (0, -8), (Flag.SYMMETRIC, -7):
        frame = result(matmul_stream(TILES, x=X, out_bits=4, flags=flags)).reshape(2, 6)[:, :5]
        assert frame.tolist() == np.clip(X @ W.T, lowest, 7).tolist()
        assert frame.min() == lowest


@pytest.mark.parametrize("group", [1, 2])
def test_output_begins_inside_a_word(group):
    """Channels, parameters and the residual all begin in lane `group`; its words have 5 lanes."""
    count = 5 - group
    padded = np.zeros((-(-count // 2) * 2, 6), np.int64)
    padded[:count, :5] = W[:count]
    tiles = op(Opcode.LOAD_WEIGHTS, data=words(
        padded.reshape(-1, 2, 2, 3).transpose(0, 2, 1, 3).reshape(-1, 3)))
    residual = RNG.integers(0, 128, (4, 5))
    values = residual[:2] + (residual[2:] << 8)
    bias, mult, shift = [5, -3, 100, 0, 7], [3, -5, 7, 2, 1], [1, 2, 3, 2, 0]
    frame = result(matmul_stream(tiles, x=X, bias=bias, mult=mult, shift=shift, residual=residual,
                                 out_group=group, flags=Flag.RESIDUAL, res_base=64, res_stride=2,
                                 res_plane=4, res_mult=3, res_shift=9)).reshape(2, 6)
    expected = requantize(X @ W[:count].T + bias[:count], np.array(mult[:count]),
                          np.array(shift[:count]), 8, residual=values[:, group:], res_mult=3,
                          res_shift=9)
    assert frame[:, group:5].tolist() == expected.tolist()
    assert not frame[:, :group].any()
    assert not frame[:, 5].any()


def test_no_output_still_takes_a_tile():
    """An output group behind the last lane: hardware multiplies one tile and writes nothing."""
    tile = op(Opcode.LOAD_WEIGHTS, data=words(PADDED[:2, :].reshape(2, 2, 3).transpose(
        1, 0, 2).reshape(-1, 3)))
    frame = result(matmul_stream(tile, x=X, words=1, lanes_last=1, out_group=2))
    assert not frame.any()


def test_codes_take_the_low_bits_of_a_multiplier():
    config = AcceleratorConfig(**{**CONFIG.to_dict(), "code_mult_bits": 16})
    for out_bits, mult in (8, 3), (16, (5 << 17) + 3):
        stream = matmul_stream(TILES, x=X, mult=[(5 << 17) + 3] * 5, shift=[3] * 5,
                               out_bits=out_bits)
        stream = encode(Opcode.BEGIN, config_hash=config.hash) + stream[64:]
        frame = result(stream, config).reshape(-1, 6)[:2, :5]
        expected = requantize(X @ W.T, mult, 3, out_bits)
        assert ((frame - expected) & 255 == 0).all()


DEFERRED = AcceleratorConfig(**{**CONFIG.to_dict(), "act_bits": 8, "weight_bits": 8,
                                "attention": "deferred", "code_mult_bits": 16})
NORMALISED = replace(DEFERRED, attention="normalised", attention_bits=16, act_bits=5)


def divided_program(config=DEFERRED, shift=24, *, tokens=False):
    """Return scores, values and a program of one head's attention; broken without `tokens`."""
    scores, v = RNG.integers(-128, 128, (2, 5)), RNG.integers(-127, 128, (5, 4))
    entries = (nearest_codes(-30, config.attention) if config.levels
               else exp_table(-30, 8 * config.exponential_tables)).astype(int)
    tables = [(Opcode.LOAD_TABLE, {"table": 1 + byte}, words(np.concatenate(
        [entries >> 8 * byte & 255, [9, 9]]).reshape(-1, 3)))
        for byte in range(config.exponential_tables)]
    instructions = [
        (Opcode.LOAD_PARAMS, {"base": 0, "count": 1}, params([0], [5], [shift])[64:]),
        (Opcode.LOAD, {**REGION, "rows": 5, "base": 16}, words(lanes(v))),
        (Opcode.LOAD, REGION, words(lanes(scores))),
        *tables,
        (Opcode.SHIFTMAX, {**VECTOR, "unit": 30, "numerator": 2**31 - 7, "factor_base": 3}, b""),
        (Opcode.MATMUL, {**MATMUL, "act_base": 40, "act_plane": 8, "lanes_last": 1,
                         "digits": config.attention_digits, "out_base": 60, "factor_base": 3,
                         "param_base": 0,
                         "flags": Flag.BROADCAST | Flag.UNSIGNED | Flag.ROW_SCALE}, b""),
        (Opcode.FETCH, {**FETCH, "lanes_last": 1, "flags": Flag.TRANSPOSE}, b""),
        (Opcode.STORE, {**REGION, "base": 60}, b"")]
    softmax = 3 + len(tables)
    waits = {softmax: 1, softmax + 1: 1 << Engine.VECTOR if tokens else 0,
             softmax + 3: 1 << Engine.MATRIX}
    signals = {softmax - 1: 1 << Engine.VECTOR, softmax: 1 << Engine.MATRIX if tokens else 0,
               softmax + 1: 1}
    stream = program(*(op(opcode, fields, data=beats, wait=waits.get(index, 0),
                          signal=signals.get(index, 0))
                       for index, (opcode, fields, beats) in enumerate(instructions)))
    return scores, v, encode(Opcode.BEGIN, config_hash=config.hash) + stream[64:]


def test_normalised_attention():
    scores, v, stream = divided_program(NORMALISED, shift=31, tokens=True)
    frame = result(stream, NORMALISED, seeds=(None, *range(10))).reshape(2, 6)[:, :4]
    codes, sums = normalised_softmax(scores, exp_table(-30, 16))
    expected = requantize(codes @ v, row_factors(sums, 2**31 - 7, 17)[:, None], 31, 8)
    assert frame.tolist() == expected.tolist()
    assert np.abs(frame).max() > 20


def test_deferred_attention():
    scores, v, stream = divided_program(tokens=True)
    frame = result(stream, DEFERRED, seeds=(None, *range(10))).reshape(2, 6)[:, :4]
    codes, sums = deferred_softmax(scores, exp_table(-30))
    factors = row_factors(sums, 2**31 - 7, 24)
    expected = requantize(codes @ v, factors[:, None], 24, 8)
    assert frame.tolist() == expected.tolist()
    assert np.abs(frame).max() > 20


@pytest.mark.parametrize("scheme", LEVELS)
def test_log2_attention(scheme):
    """Five keys in two words of three lanes, whose codes share one."""
    config = replace(DEFERRED, attention=scheme)
    scores, v, stream = divided_program(config, tokens=True)
    frame = result(stream, config, seeds=(None, *range(10))).reshape(2, 6)[:, :4]
    codes, sums = deferred_softmax(scores, leveled_table(-30, scheme))
    expected = requantize(codes @ v, row_factors(sums, 2**31 - 7, 24)[:, None], 24, 8)
    assert frame.tolist() == expected.tolist()
    assert np.abs(frame).max() > 20


def test_missing_token_before_the_row_factors_shows():
    _, _, stream = divided_program()
    frames = [Machine(DEFERRED, seed).run(stream)[-1].tobytes() for seed in range(20)]
    assert len(set(frames)) > 1


def test_tables_are_separate():
    stream = program(op(Opcode.LOAD_TABLE, data=bytes(range(1, 9)) * 43),
                     op(Opcode.LOAD_TABLE, table=1, data=bytes(86 * BEAT)))
    machine = Machine(CONFIG)
    machine.run(stream)
    assert machine.memories.tables[0].any()
    assert not machine.memories.tables[1].any()


REFUSED = [
    (bytes(64), Error.BAD_OPCODE),
    (bytes([13]) + bytes(63), Error.BAD_OPCODE),
    (encode(Opcode.BEGIN, config_hash=CONFIG.hash), Error.BAD_OPCODE),
    (encode(Opcode.BEGIN, config_hash=1), Error.BAD_OPCODE),
    (op(Opcode.STORE, REGION, base=125), Error.SCRATCHPAD_RANGE),
    (op(Opcode.STORE, REGION, stride=65535, rows=2), Error.SCRATCHPAD_RANGE),
    (op(Opcode.MATMUL, MATMUL, act_base=126), Error.SCRATCHPAD_RANGE),
    (op(Opcode.MATMUL, MATMUL, digits=2, act_plane=126), Error.SCRATCHPAD_RANGE),
    (op(Opcode.MATMUL, MATMUL, out_base=125), Error.SCRATCHPAD_RANGE),
    (op(Opcode.MATMUL, MATMUL, out_bits=9, out_plane=86), Error.SCRATCHPAD_RANGE),
    (op(Opcode.MATMUL, MATMUL, flags=Flag.RESIDUAL, res_base=127), Error.SCRATCHPAD_RANGE),
    (op(Opcode.LAYERNORM, VECTOR, src_plane=126, out_bits=8, param_base=0),
     Error.SCRATCHPAD_RANGE),
    (op(Opcode.SHIFTMAX, VECTOR, dst_plane=30, unit=1), Error.SCRATCHPAD_RANGE),
    (op(Opcode.MATMUL, MATMUL, param_base=12), Error.PARAM_RANGE),
    (op(Opcode.MATMUL, MATMUL, flags=Flag.BROADCAST, param_base=16), Error.PARAM_RANGE),
    (op(Opcode.LAYERNORM, VECTOR, out_bits=8, param_base=12), Error.PARAM_RANGE),
    (op(Opcode.SHIFTGELU, VECTOR, unit=1, out_bits=8, param_base=16), Error.PARAM_RANGE),
    (op(Opcode.LOAD_PARAMS, data=bytes(3 * BEAT), base=16, count=1), Error.PARAM_RANGE),
    (op(Opcode.STORE, REGION, rows=0), Error.ZERO_COUNT),
    (op(Opcode.FETCH, FETCH, words=0), Error.ZERO_COUNT),
    (op(Opcode.MATMUL, MATMUL, act_words=0), Error.ZERO_COUNT),
    (op(Opcode.MATMUL, MATMUL, digits=0), Error.ZERO_COUNT),
    (op(Opcode.SHIFTMAX, VECTOR, words=3, lanes_last=3, unit=1), Error.ROW_RANGE),
    (op(Opcode.MATMUL, MATMUL, rows=5), Error.TOKEN_RANGE),
    (op(Opcode.FETCH, FETCH, lanes_last=4), Error.FIELD_RANGE),
    (op(Opcode.MATMUL, MATMUL, lanes_last=0), Error.FIELD_RANGE),
    (op(Opcode.MATMUL, MATMUL, out_bits=17), Error.FIELD_RANGE),
    (op(Opcode.MATMUL, MATMUL, res_shift=64), Error.FIELD_RANGE),
    (op(Opcode.LAYERNORM, VECTOR, out_bits=9, param_base=0), Error.FIELD_RANGE),
    (op(Opcode.LAYERNORM, VECTOR, out_bits=8, param_base=0, epsilon_high=1), Error.FIELD_RANGE),
    (op(Opcode.SHIFTMAX, VECTOR, unit=0), Error.FIELD_RANGE),
    (op(Opcode.SHIFTMAX, VECTOR, unit=64), Error.FIELD_RANGE),
    (op(Opcode.LOAD, REGION, data=bytes(4 * BEAT), beats=5), Error.BEAT_COUNT),
    (op(Opcode.LOAD_PARAMS, data=bytes(3 * BEAT), beats=4, base=0, count=1), Error.BEAT_COUNT),
    (op(Opcode.LOAD_TABLE, data=bytes(85 * BEAT)), Error.BEAT_COUNT),
    (op(Opcode.MATMUL, MATMUL, digits=5), Error.FIELD_RANGE),  # attention has 4
    (op(Opcode.LOAD_WEIGHTS, beats=0), Error.BEAT_COUNT),
    (op(Opcode.MATMUL, MATMUL, out_group=3), Error.FIELD_RANGE),
    (op(Opcode.MATMUL, MATMUL, flags=Flag.ROW_SCALE), Error.FIELD_RANGE),
    (op(Opcode.LOAD_TABLE, data=bytes(86 * BEAT), table=2), Error.FIELD_RANGE),
]


@pytest.mark.parametrize(("instruction", "cause"), REFUSED,
                         ids=[f"{index} {cause.name}" for index, (_, cause) in enumerate(REFUSED)])
def test_refused_instruction(instruction, cause):
    store = op(Opcode.STORE, REGION)
    with pytest.raises(MachineError, match=rf"^instruction 2 refused: {cause.name}$") as caught:
        Machine(CONFIG).run(program(store, instruction))
    assert (caught.value.cause, caught.value.index) == (cause, 2)


MASKED = replace(DEFERRED, masks=True, max_row=9)


@pytest.mark.parametrize(("fields", "cause"), [
    ({"key_words": 0}, Error.ZERO_COUNT), ({"key_words": 4}, Error.FIELD_RANGE),
    ({"key_last": 0}, Error.FIELD_RANGE), ({"key_last": 4}, Error.FIELD_RANGE),
    ({"key_step": 2}, Error.FIELD_RANGE)])
def test_refused_masks(fields, cause):
    """Three lanes a word, and three words in the longest row."""
    begin = encode(Opcode.BEGIN, config_hash=MASKED.hash)
    with pytest.raises(MachineError, match=rf"^instruction 1 refused: {cause.name}$"):
        Machine(MASKED).run(begin + op(Opcode.SHIFTMAX, VECTOR, unit=1, **fields))
    for good in {"key_words": 3}, {"key_last": 3}, {"key_last": 1}, {"key_step": 1}:
        Machine(MASKED).run(begin + op(Opcode.SHIFTMAX, VECTOR, unit=1, **good)
                            + encode(Opcode.END))


@pytest.mark.parametrize(("first", "step", "keys"), [
    (1, 1, [1, 2]), (5, 0, [5, 5]), (2, 0, [2, 2]), (4, 1, [4, 5]), (5, 1, [5, 5]),
    (6, 1, [5, 5])])
def test_masked_rows_end_early(first, step, keys):
    """Of five elements; more than there are is all of them."""
    scores = RNG.integers(-128, 128, (2, 5))
    table = exp_table(-30, 8)
    load = (Opcode.LOAD, REGION, words(lanes(scores)))
    tables = (Opcode.LOAD_TABLE, {"table": 1}, words(np.concatenate(
        [table.astype(int), [9, 9]]).reshape(-1, 3)))
    softmax = (Opcode.SHIFTMAX, {**VECTOR, "unit": 30, "key_words": -(-first // 3),
                                 "key_last": (first - 1) % 3 + 1, "key_step": step}, b"")
    stream = chain(load, tables, softmax, (Opcode.STORE, {**REGION, "base": 40}, b""))
    stream = encode(Opcode.BEGIN, config_hash=MASKED.hash) + stream[64:]
    frame = result(stream, MASKED, seeds=(None,)).reshape(2, 6)
    for row, (count, got) in enumerate(zip(keys, frame, strict=True)):
        codes, _ = deferred_softmax(scores[row:row + 1, :count], table)
        assert (got.astype(np.uint8)[:count] == codes[0]).all()
        assert not got[count:5].any()


MEAN = {**VECTOR, "wide": 0, "mult": 1, "shift": 0, "out_bits": 8}


@pytest.mark.parametrize(("fields", "cause"), [
    ({"wide": 2}, Error.FIELD_RANGE), ({"mult": 0}, Error.FIELD_RANGE),
    ({"mult": 4096}, Error.FIELD_RANGE), ({"shift": 64}, Error.FIELD_RANGE),
    ({"out_bits": 17}, Error.FIELD_RANGE), ({"out_bits": 1}, Error.FIELD_RANGE),
    ({"rows": 0}, Error.ZERO_COUNT), ({"words": 3, "lanes_last": 3}, Error.ROW_RANGE),
    ({"src_base": 125}, Error.SCRATCHPAD_RANGE), ({"dst_base": 127}, Error.SCRATCHPAD_RANGE),
    ({"wide": 1, "src_plane": 125}, Error.SCRATCHPAD_RANGE),
    ({"out_bits": 9, "dst_plane": 87}, Error.SCRATCHPAD_RANGE),
])
def test_refused_means(fields, cause):
    begin = encode(Opcode.BEGIN, config_hash=MEANS.hash)
    with pytest.raises(MachineError, match=rf"^instruction 1 refused: {cause.name}$"):
        Machine(MEANS).run(begin + op(Opcode.MEAN, MEAN, **fields))


def test_means_at_the_limits():
    """Each next to a refused one; the output is one row, whatever its stride."""
    begin = encode(Opcode.BEGIN, config_hash=MEANS.hash)
    for fields in ({"mult": 4095}, {"shift": 63}, {"out_bits": 16}, {"src_base": 124},
                   {"dst_base": 126, "dst_stride": 65535}, {"src_plane": 65535},
                   {"wide": 1, "src_plane": 124}, {"dst_plane": 65535},
                   {"out_bits": 9, "dst_plane": 86}):
        Machine(MEANS).run(begin + op(Opcode.MEAN, MEAN, **fields) + encode(Opcode.END))


def test_mean_is_unknown_without_pooling():
    begin = encode(Opcode.BEGIN, config_hash=CONFIG.hash)
    with pytest.raises(MachineError, match=r"^instruction 1 refused: BAD_OPCODE$"):
        Machine(CONFIG).run(begin + op(Opcode.MEAN, MEAN))


def test_row_factors_out_of_range():
    depth = DEFERRED.factor_depth
    for instruction in (
            op(Opcode.SHIFTMAX, VECTOR, unit=1, factor_base=depth - 1),
            op(Opcode.MATMUL, MATMUL, flags=Flag.ROW_SCALE, factor_base=depth - 1)):
        begin = encode(Opcode.BEGIN, config_hash=DEFERRED.hash)
        with pytest.raises(MachineError, match=r"^instruction 1 refused: FACTOR_RANGE$"):
            Machine(DEFERRED).run(begin + instruction)


def test_program_must_begin_with_its_configuration():
    wrong = encode(Opcode.BEGIN, config_hash=CONFIG.hash ^ 1)
    for stream, cause in ((wrong, Error.CONFIG_HASH), (encode(Opcode.END), Error.BAD_OPCODE)):
        with pytest.raises(MachineError, match=rf"^instruction 0 refused: {cause.name}$"):
            Machine(CONFIG).run(stream)


def test_end_of_stream_is_a_deadlock():
    whole = program(op(Opcode.LOAD, REGION, data=words(np.zeros((4, 3)))))
    for length in range(0, len(whole), BEAT):
        with pytest.raises(DeadlockError, match=rf"stream beat \d+ of {length // BEAT}$"):
            Machine(CONFIG).run(whole[:length])


def test_leftovers_are_faults():
    for stream, message in (
            (program() + bytes(2 * BEAT), r"^2 beats after END$"),
            (program(TILES[:64] + TILES[64:]), r"^12 weight words left over$"),
            (program(op(Opcode.STORE, REGION, signal=4)), r"^tokens left over .*$")):
        config = AcceleratorConfig(**{**CONFIG.to_dict(), "weight_fifo": 64})
        stream = encode(Opcode.BEGIN, config_hash=config.hash) + stream[64:]
        with pytest.raises(ProgramFault, match=message):
            Machine(config).run(stream)


def test_signal_to_the_own_engine_gives_nothing():
    assert len(Machine(CONFIG).run(program(op(Opcode.STORE, REGION, signal=1)))) == 1


def test_what_stands_behind_data_may_not_be_reached():
    """The data of the second LOAD never leaves the stream if the first one waits for ever."""
    load = op(Opcode.LOAD, REGION, data=words(np.zeros((4, 3))))
    stream = program(load[:1] + bytes([1 << Engine.MATRIX]) + load[2:], load, bytes(64))
    outcomes = set()
    for seed in range(20):
        try:
            Machine(CONFIG, seed).run(stream)
        except (DeadlockError, MachineError) as error:
            outcomes.add(type(error))
    assert outcomes == {DeadlockError, MachineError}


def test_weights_without_a_matmul_fill_the_fifo_and_stop():
    with pytest.raises(DeadlockError, match=r"LOAD at 1"):
        Machine(CONFIG).run(program(TILES))


def test_matmul_behind_its_weights_is_a_deadlock():
    stream = program(TILES, op(Opcode.MATMUL, MATMUL))
    outcomes = set()
    for seed in range(20):
        try:
            Machine(CONFIG, seed).run(stream)
            outcomes.add("done")
        except DeadlockError:
            outcomes.add("deadlock")
    assert outcomes == {"done", "deadlock"}
