"""Spaces as data: what a file may say, which points it makes, and what is refused in one line."""

import itertools

import pytest

from systola.explore.goal import goal_space
from systola.explore.limit import Limit
from systola.explore.space import Space, SpaceError
from systola.hw.contract.config import PRESETS, AcceleratorConfig

DIGITS = {"network": {"model": "digits"}}


def space(config=None, **sections):
    return Space.from_dict({**DIGITS, "config": {"preset": "small", **(config or {})}, **sections},
                           board=lambda name: (["dsp <= 96"], 50.0))


def test_points_are_the_product_and_invalid_ones_are_counted_by_reason():
    found, skipped = space({"rows": [4, 8], "cols": {"from": 2, "to": 8, "step": 2},
                            "act_bits": [4, 8]}, program={"batch": [1, 2]},
                           front={"limits": ["rows * cols <= 32"]}).points()
    assert sum(skipped.values()) + len(found) == 2 * 4 * 2 * 2
    assert skipped == {"cols must be at most rows": 8, "limit rows * cols <= 32": 8}
    for point in found:
        assert point.config.rows * point.config.cols <= 32
        assert point.config == AcceleratorConfig(**{
            **PRESETS["small"].to_dict(), **{name: value for name, value in point.choices.items()
                                             if name != "batch"}})
        assert point.quantization["act_bits"] == point.config.act_bits
    assert len({point.name for point in found}) == len(found)
    assert [point.number for point in found] == sorted(point.number for point in found)


def test_ranges():
    def values(entry):
        return space({"bank_depth": entry}).axes[0].values

    assert values({"from": 256, "to": 2048, "times": 2}) == (256, 512, 1024, 2048)
    assert values({"from": 16, "to": 24, "step": 4}) == (16, 20, 24)
    assert values({"from": 16, "to": 18}) == (16, 17, 18)


def test_a_quantization_may_differ_from_the_hardware():
    found, _ = space(quantization={"weight_bits": [4, 8], "method": "minmax"}).points()
    assert [point.quantization["weight_bits"] for point in found] == [4, 8]
    assert {point.config.weight_bits for point in found} == {8}
    assert AcceleratorConfig.from_dict(PRESETS["small"].to_dict()) == found[0].config


@pytest.mark.parametrize(("sections", "message"), [
    ({"confg": {}}, r"unknown entry 'confg', expected one of name, network, config"),
    ({"config": {"rws": 4}}, r"unknown entry 'rws' of \[config\], expected one of rows"),
    ({"config": {"rows": "4"}}, r"rows must be an integer, not '4'"),
    ({"config": {"rows": [4, 4]}}, r"rows must have each value once"),
    ({"config": {"rows": []}}, r"rows must have from 1 to 256 values, not 0"),
    ({"config": {"rows": {"from": 8, "to": 4}}}, r"to of rows must be at least 8, not 4"),
    ({"config": {"rows": {"low": 8}}}, r"rows must be a value, a list, or a range"),
    ({"config": {"rows": {"from": 1, "to": 10**9}}}, r"rows must have at most 256 values"),
    ({"config": {"preset": "huge"}}, r"preset must be one of digits"),
    ({"network": {}}, r"model of \[network\] must be a name or a path, not None"),
    ({"network": {"model": "deit_tiny"}}, r"random_weights must be true with model 'deit_tiny'"),
    ({"network": {"model": "a.safetensors"}}, r"data of \[network\] must name labelled images"),
    ({"network": {"model": "digits", "images": 0}}, r"images of \[network\] must be an integer"),
    ({"quantization": {"method": "magic"}}, r"method must be one of minmax"),
    ({"program": {"batch": 0}}, r"batch must be an integer from 1 to 64, not 0"),
    ({"front": {"objectives": ["speed"]}}, r"objectives must be of cycles, fps.*, not 'speed'"),
    ({"front": {"objectives": []}}, r"objectives must name at least one figure"),
    ({"front": {"objectives": ["fmax_mhz"]}}, r"objectives must be figures that all points get"),
    ({"front": {"objectives": ["energy_uj"]}},
     r"objectives must be figures that all points get, not 'energy_uj', which finalists get"),
    ({"front": {"limits": ["power_mw <= 100"]}}, r"a limit must be of .*, not 'power_mw'"),
    ({"front": {"limits": ["dsp <= many"]}}, r"a limit must be like 'dsp <= 96'"),
    ({"front": {"limits": ["__import__('os') <= 1"]}}, r"a limit must be like 'dsp <= 96'"),
    ({"front": {"limits": ["dps <= 4"]}}, r"a limit must be of cycles.*, not 'dps'"),
    ({"front": {"clock_mhz": 0}}, r"clock_mhz must be a number from 1 to 1000, not 0"),
    ({"search": {"sampler": "luck"}}, r"sampler must be one of exhaustive, nsga2"),
    ({"finalists": {"measures": ["taste"]}}, r"measures must be of synthesis, rtl, power, route"),
])
def test_what_is_wrong_is_named(sections, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Space.from_dict({**DIGITS, **sections})


def test_accuracy_needs_a_trained_network():
    network = {"network": {"model": "deit_tiny", "random_weights": True}}
    assert Space.from_dict(network).objectives == ("cycles", "lut")
    for front in {"objectives": ["int_top1"]}, {"limits": ["int_top1 >= 0.5"]}:
        with pytest.raises(SpaceError, match=r"^int_top1 needs a trained network"):
            Space.from_dict({**network, "front": front})


def test_files(tmp_path):
    path = tmp_path / "a.toml"
    for text, message in (("[network", "cannot be read"), ("x = 1", "unknown entry 'x'")):
        path.write_text(text)
        with pytest.raises(SpaceError, match=rf"^space '.*a\.toml'.*{message}"):
            Space.load(path)
    with pytest.raises(SpaceError, match=r"must be a \.toml file that is there"):
        Space.load(tmp_path / "none.toml")
    path.write_text('[network]\nmodel = "digits"\n[front]\nboard = "b"\n')
    loaded = Space.load(path, board=lambda name: (["lut <= 100"], 50.0))
    assert loaded.name == "a"
    assert list(map(str, loaded.limits)) == ["lut <= 100"]
    assert loaded.clock_mhz == 50


def test_limits():
    limit = Limit.parse(" rows*cols <= 12.5", ["rows", "cols"])
    assert str(limit) == "rows * cols <= 12.5"
    for rows, cols in itertools.product(range(1, 6), range(1, 6)):
        assert limit.holds({"rows": rows, "cols": cols}) == (rows * cols <= 12.5)
    assert limit.may_hold({"rows": 3, "cols": 4}, {"rows": 4, "cols": 4})
    assert not limit.may_hold({"rows": 4, "cols": 4}, {"rows": 5, "cols": 4})
    assert Limit.parse("a >= 4", ["a"]).may_hold({"a": 3}, {"a": 4})
    assert Limit.parse("a == 4", ["a"]).may_hold({"a": 3}, {"a": 5})
    assert not Limit.parse("a == 4", ["a"]).may_hold({"a": 5}, {"a": 6})


def test_goals():
    made = Space.from_dict(goal_space("fps at least 30 and lut at most 20000 on arty_s7_50 for "
                                      "deit_tiny with best cycles dsp"),
                           board=lambda name: (["dsp <= 120"], 50.0))
    assert made.objectives == ("cycles", "dsp")
    assert list(map(str, made.limits)) == ["dsp <= 120", "fps >= 30", "lut <= 20000"]
    assert made.network["random_weights"]
    assert len(made.points()[0]) > 50
    for text in "quick", "fps over 3 on a for b", "fps at least 3 on arty_s7_50":
        with pytest.raises(SpaceError, match=r"^a goal must be like 'fps at least 30"):
            goal_space(text)
    with pytest.raises(SpaceError, match=r"^a goal must be of cycles.*, not 'speed'$"):
        goal_space("speed at least 3 on arty_s7_50 for digits")
