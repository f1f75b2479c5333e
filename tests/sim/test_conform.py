from pathlib import Path

import numpy as np
import pytest

from systola.model.operators.requant import dyadic, requantize
from systola.model.operators.shiftmax import shiftmax
from systola.model.quantization.uniform import exp_constant
from systola.sim.conform.conform import ModelEngine, conform, passed
from systola.sim.conform.golden import (
    ARITHMETIC,
    BOUNDED,
    JUDGED,
    MISSING,
    OPAQUE,
    SHOWN,
    GoldenError,
)

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = sorted(path.name for path in GOLDEN.glob("*.npz"))
VERDICTS = {JUDGED, ARITHMETIC, BOUNDED}
NEAR = {"sm_a_out_f64", "ln_b_y_f64"}
"""Where the publication rounds in float32: judged to a bound."""


def arrays(name):
    with np.load(GOLDEN / name, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def write(folder, name, contents):
    np.savez(folder / name, **contents)
    return folder


@pytest.fixture(scope="module")
def rows():
    return conform(GOLDEN)


def test_every_judged_row_is_exact(rows):
    judged = [row for row in rows if row.status in {JUDGED, ARITHMETIC}]
    assert len(judged) > 300
    assert {row.file for row in judged} == set(FILES)
    assert [row for row in judged if row.exact != 100 or row.largest != 0 or not row.elements] == []
    near = {row.array: row for row in rows if row.status == BOUNDED}
    assert near.keys() == NEAR
    assert all(row.within and row.note and row.exact < 100 for row in near.values())
    assert near["sm_a_out_f64"].exact > 99.9
    assert passed(rows)


@pytest.mark.parametrize("name", FILES)
def test_every_exact_array_is_judged(rows, name):
    judged = {row.array for row in rows if row.file == name and row.status in VERDICTS}
    stored = {key for key in arrays(name) if key.endswith(("_f64", "_exact", ".out_int"))}
    assert stored or name == "log2_codes.npz"
    assert stored <= judged


def test_float32_is_only_shown(rows):
    float32 = [row for row in rows if row.array.endswith("_f32")]
    assert {row.status for row in float32} == {SHOWN}
    assert len([row for row in float32 if row.status == SHOWN]) > 100


def test_arithmetic_rules_where_the_publication_is_wrong(rows):
    ruled = {(row.file, row.array) for row in rows if row.status == ARITHMETIC}
    assert {("requant.npz", "adv_out_f64"), ("requant.npz", "g_out_f64"),
            ("shiftmax.npz", "k_out_f64"), ("shiftgelu.npz", "i_out_f64"),
            ("shiftgelu.npz", "i_sig_f64"), ("shiftgelu.npz", "a_expmax_f64")} <= ruled
    assert {row.status for row in rows if row.array == "adv_out_exact"} == {JUDGED}


def test_every_operator_exists(rows):
    assert [row for row in rows if row.status == MISSING] == []
    judged = {row.array for row in rows if row.status in VERDICTS}
    assert {"sm_a_out_f64", "ge_a_out_f64", "ln_a_y_f64", "lis_a_code_f64", "Sqrt2_17_grid_code",
            "Sqrt2_16_float_delta", "Sqrt2_17_float_deq", "ln_b_bias_int"} <= judged


@pytest.mark.parametrize(("array", "many", "most"), [("sm_a_out_f64", 60, 1),
                                                     ("ln_b_y_f64", 384, 9)])
def test_a_bound_can_be_left(tmp_path, array, many, most):
    """By more codes than float32 explains, or by more in a single one."""
    contents = arrays("ibert_lis.npz")
    for count, by in (many, most), (1, 40):
        changed = contents[array].copy()
        changed.ravel()[:count] += np.where(changed.ravel()[:count] < 0, -by, by).astype(
            changed.dtype)
        worse = conform(write(tmp_path, "ibert_lis.npz", {**contents, array: changed}))
        assert [row.array for row in worse if row.failed] == [array]
        assert not passed(worse)


@pytest.mark.parametrize("name", FILES)
def test_every_judged_array_can_fail(tmp_path, rows, name):
    judged = {row.array for row in rows if row.file == name and row.status in VERDICTS}
    contents = arrays(name)
    judged = {key for key in judged & set(contents)
              if not (key.startswith("BitLog2") and key.endswith("_delta"))
              and key != "adv_out_f64"}  # judged by another array
    for key in judged:
        changed = contents[key]
        contents[key] = changed ^ 1 if changed.dtype.kind == "i" else changed * 0.99
        if key.endswith("_expmax_f64"):  # equal above MAX31
            contents[key] = changed & 15
        elif key.startswith("sm_c_out"):  # equal above full scale
            contents[key] = changed - 2
        elif key in NEAR or key == "ln_a_y_f64":
            contents[key] = changed + 1 + (changed >> 4)
    worse = conform(write(tmp_path, name, contents))
    assert {row.array for row in worse if row.failed} >= judged
    assert not passed(worse)


def test_a_wrong_divisor_fails_and_an_equal_one_does_not(tmp_path):
    contents, key = arrays("log2_codes.npz"), "BitLog2_Single_17_grid_delta"
    for change, verdict in (300, [JUDGED]), (2, [ARITHMETIC]):
        changed = {**contents, key: contents[key] + change}
        found = [row for row in conform(write(tmp_path, "log2_codes.npz", changed))
                 if row.array == key]
        assert [row.status for row in found] == verdict
        assert found[0].failed == (change == 300)


class Faulty(ModelEngine):
    """The models, one of which is off by `error` in its last element."""

    def __init__(self, operator, error=1):
        good = getattr(self, operator)

        def bad(*args, **kwargs):
            out = good(*args, **kwargs).copy()
            out.ravel()[-1] += error
            return out

        setattr(self, operator, bad)
        setattr(self, f"{operator}_trace", None)


@pytest.mark.parametrize(("operator", "names", "name"), [
    ("requantize", {"requantize", "residual"}, "requant.npz"), ("linear", {"linear"}, "linear.npz"),
    ("matmul", {"matmul Q.K^T"}, "linear.npz"), ("digit_matmul", {"matmul A.V"}, "linear.npz"),
    ("shiftmax", {"shiftmax"}, "shiftmax.npz"), ("shiftgelu", {"shiftgelu"}, "shiftgelu.npz"),
    ("layernorm", {"layernorm"}, "ilayernorm.npz")])
def test_a_faulty_engine_fails_in_its_own_rows(tmp_path, operator, names, name):
    folder = write(tmp_path, name, arrays(name))
    found = conform(folder, Faulty(operator))
    assert names <= {row.operator for row in found if row.failed} <= {*names,
                                                                      "layernorm requantized"}
    write(tmp_path, "block_asis.npz", arrays("block_asis.npz"))
    (tmp_path / name).unlink()
    error = 1 << 26 if operator == "layernorm" else 1  # of 2**30, of which 8 bits survive
    assert not passed(conform(folder, Faulty(operator, error)))


class Opaque:
    """An engine of the required methods alone."""

    judged_only = True

    def __getattr__(self, name):
        if name in {"requantize", "linear", "matmul", "digit_matmul", "shiftmax", "shiftgelu",
                    "layernorm"}:
            return getattr(ModelEngine, name)
        raise AttributeError(name)


def test_an_engine_may_show_outputs_only(rows):
    found = conform(GOLDEN, Opaque())
    assert passed(found)
    by_array = {(row.file, row.array): row.status for row in found}
    for name, array, status in [
            ("shiftmax.npz", "a_exp_f64", OPAQUE), ("shiftgelu.npz", "a_sig_f64", OPAQUE),
            ("ilayernorm.npz", "a_iters_f64", OPAQUE), ("linear.npz", "a_w_int", OPAQUE),
            ("requant.npz", "frexp_m", OPAQUE), ("log2_codes.npz", "BitLog2_Half_16_av", OPAQUE),
            ("log2_codes.npz", "Sqrt2_16_grid_code", OPAQUE),
            ("ibert_lis.npz", "sm_a_out_f64", OPAQUE), ("ibert_lis.npz", "ge_a_out_f64", OPAQUE),
            ("ibert_lis.npz", "ln_b_y_f64", OPAQUE), ("ibert_lis.npz", "lis_c_code_f64", OPAQUE),
            ("shiftmax.npz", "a_out_f64", JUDGED), ("ilayernorm.npz", "a_q8_f64", JUDGED),
            ("block_clean.npz", "qact4.out_int", JUDGED)]:
        assert by_array[name, array] == status, array
    assert ("shiftmax.npz", "a_out_f32") not in by_array


def test_other_shapes_and_case_letters(tmp_path):
    contents = arrays("shiftmax.npz")
    fewer = {f"zz{key[1:]}": value[2:7, ...] if value.ndim else value
             for key, value in contents.items() if key.startswith("b_")}
    write(tmp_path, "shiftmax.npz", fewer)
    found = conform(tmp_path)
    assert {row.array for row in found} == {f"zz_{name}" for name in (
        "x0_f64", "x0_f32", "exp_f64", "factor_f64", "out_f64", "factor_f32", "out_f32")}
    assert passed(found)


@pytest.mark.parametrize("name", ["block_asis.npz", "block_clean.npz"])
def test_block_with_several_heads(tmp_path, name):
    contents, heads, d = arrays(name), 4, 16
    contents["heads"] = np.int8(heads)
    qkv = contents["attn.qact1.out_int"].astype(np.int64)
    q, k, v = (np.stack([qkv[:, 64 * g + d * h:][:, :d] for h in range(heads)]) for g in range(3))
    scores = np.stack([q[h] @ k[h].T for h in range(heads)])
    ratio = contents["attn.matmul_1.scale"] / 4 / contents["attn.qact_attn1.scale"]
    codes = requantize(scores, *dyadic(ratio.astype(float)), 8)
    scale = contents["attn.qact_attn1.scale"].item()
    attention = shiftmax(codes, exp_constant(scale, dtype=np.float32))
    for key in [key for key in contents if key.endswith((".out_int", ".out_f32"))]:
        del contents[key]
    contents["attn.matmul_1.out_int"] = scores
    contents["attn.int_softmax.out_int"] = attention
    contents["attn.matmul_2.out_int"] = np.stack([attention[h] @ v[h] for h in range(heads)])
    context = requantize(np.concatenate(contents["attn.matmul_2.out_int"], axis=1), *dyadic(
        (contents["attn.matmul_2.scale"] / contents["attn.qact2.scale"]).astype(float)), 8)
    contents["attn.qact2.out_int"] = context
    found = conform(write(tmp_path, name, contents))
    assert [row.array.removesuffix(".out_int") for row in found] == [
        "attn.matmul_1", "attn.int_softmax", "attn.matmul_2", "attn.qact2"]
    assert passed(found)


def test_progress_names_the_files(tmp_path):
    write(tmp_path, "requant.npz", arrays("requant.npz"))
    write(tmp_path, "unheard_of.npz", {"a": np.zeros(2, int)})
    calls = []
    found = conform(tmp_path, progress=lambda *args: calls.append(args))
    assert calls == [(0, 2, "requant.npz"), (1, 2, "unheard_of.npz")]
    assert [row.status for row in found if row.file == "unheard_of.npz"] == [MISSING]


def without(key):
    return lambda contents: contents.pop(key)


def put(key, value):
    return lambda contents: contents.update({key: value})


@pytest.mark.parametrize(("name", "change", "message"), [
    ("requant.npz", without("a_m"), "requant.npz must hold the array 'a_m', which is missing"),
    ("requant.npz", put("a_z", np.zeros((2, 3))),
     "requant.npz array 'a_z' must hold integers, not float64"),
    ("requant.npz", put("b_z", np.ones((5, 6), int)),
     "requant.npz must hold arrays that fit together: operands could not"),
    ("requant.npz", put("a_e", np.array([64])),
     "requant.npz must hold arrays that fit together: shift must be from 0 to 63, not 64"),
    ("requant.npz", put("a_out_f64", np.zeros((2, 3), int)),
     r"requant.npz array 'a_out_f64' must be of shape \(20, 24\), not \(2, 3\)"),
    ("requant.npz", put("a_bits", np.array([8, 8])),
     r"requant.npz array 'a_bits' must be one number, not of shape \(2,\)"),
    ("shiftmax.npz", put("a_scale", np.float32("nan")),
     "shiftmax.npz array 'a_scale' must be finite"),
    ("shiftmax.npz", put("a_x0_f64", np.int64(3)),
     "shiftmax.npz must hold arrays that fit together: x0 must be from -16777216 to -1, not 3"),
    ("block_asis.npz", put("heads", np.int64(3)),
     "block_asis.npz heads must divide dim 64, not 3"),
    ("linear.npz", put("qk_k", np.zeros((5, 63), int)),
     "linear.npz must hold arrays that fit together: "),
    ("ilayernorm.npz", put("a_x", np.array([{}], object)),
     "ilayernorm.npz must be a complete .npz file of plain arrays: 'a_x.npy' must"),
    ("ibert_lis.npz", put("sm_b_scale", np.float32(2)),
     "ibert_lis.npz must hold arrays that fit together: constants must be x0 below 0"),
    ("ibert_lis.npz", put("xy_x", np.zeros((2, 3), int)),
     "ibert_lis.npz array 'xy_x' must start with sm, ge, ln: no other operator is known"),
    ("ibert_lis.npz", put("ln_a_y_f64", np.zeros((2, 3), int)),
     r"ibert_lis.npz array 'ln_a_y_f64' must be of shape \(6, 192\), not \(2, 3\)"),
    ("shiftgelu.npz", lambda contents: contents.clear(),
     "shiftgelu.npz must hold at least one case, but no array is known"),
])
def test_wrong_files(tmp_path, name, change, message):
    contents = arrays(name)
    change(contents)
    with pytest.raises(GoldenError, match=f"^({message})"):
        conform(write(tmp_path, name, contents))


@pytest.mark.parametrize("keep", [0, 10, 500, -40, -1])
def test_truncated_files(tmp_path, keep):
    whole = (GOLDEN / "requant.npz").read_bytes()
    (tmp_path / "requant.npz").write_bytes(whole[:keep])
    with pytest.raises(GoldenError, match=r"^requant.npz must be a complete .npz file"):
        conform(tmp_path)


def test_other_content_under_the_name(tmp_path):
    np.save(tmp_path / "requant.npy", np.zeros(3))
    (tmp_path / "requant.npy").rename(tmp_path / "requant.npz")
    with pytest.raises(GoldenError, match=r"^requant.npz must be a complete .npz file"):
        conform(tmp_path)


def test_a_bit_flip_is_noticed(tmp_path):
    whole = bytearray((GOLDEN / "shiftmax.npz").read_bytes())
    whole[len(whole) // 2] ^= 4
    (tmp_path / "shiftmax.npz").write_bytes(whole)
    with pytest.raises(GoldenError, match=r"^shiftmax.npz must be a complete .npz file"):
        conform(tmp_path)


def test_folders(tmp_path):
    with pytest.raises(GoldenError, match=r"^golden folder '.*' must hold at least one of requant"):
        conform(tmp_path)
    with pytest.raises(GoldenError, match=r"^golden folder '.*x' must be a folder of .npz files$"):
        conform(tmp_path / "x")
