"""Explorations: the front, what is measured again, failures, and other numbers of workers."""

import json
import random
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from systola.boards.synthesis.area_model import AreaModel, area_model, samples
from systola.cli.main import main
from systola.cluster.cluster import Cluster
from systola.explore import exploration as module
from systola.explore import point_measures
from systola.explore.exploration import Exploration
from systola.explore.front import dominated, spread
from systola.explore.space import Space
from systola.explore.store import Store, StoreError

FIELDS = {"network": {"model": "digits", "images": 60},
          "config": {"preset": "small", "rows": [4, 8], "cols": [2, 4], "weight_bits": [4, 8],
                     "bank_depth": [256, 1024]},
          "quantization": {"method": "minmax"},
          "finalists": {"count": 0, "syntheses": 0}}


def space(**changes):
    return Space.from_dict({**FIELDS, **changes})


def run(tmp_path, chosen, *, name="a", **options):
    with Store(tmp_path / f"{name}.sqlite") as store:
        return Exploration(chosen, store, **options).run()


def made_up(name, inputs):
    """Return what a measure could find: quick, and of the inputs alone."""
    config = inputs.get("config", {})
    rng = random.Random(json.dumps(config, sort_keys=True))
    cells = config.get("rows", 1) * config.get("cols", 1)
    return {"accuracy": {"int_top1": 0.9 + inputs.get("settings", {}).get("weight_bits", 0) / 100},
            "compile": {"cycles": 1e6 / cells, "stream_bytes": 1.0, "bytes_per_cycle": 1.0,
                        "utilisation": 0.5, "scratchpad_words": 9},
            "synthesis": {"lut": 9000 + 10 * cells + rng.randrange(300), "ff": 1, "carry": 1,
                          "dsp": cells, "bram36": 4},
            "rtl": {"mismatches": 0}}[name]


@pytest.fixture
def quick(monkeypatch):
    calls = []

    def measured(shared, name, inputs):
        calls.append(name)
        return {"values": made_up(name, inputs)}, 0.1

    monkeypatch.setattr(module, "measured", measured)
    return calls


def test_front_by_definition():
    rng = np.random.default_rng(0)
    for count, most in (1, 4), (40, 3), (700, 9):
        values = rng.integers(0, most, size=(count, 3))
        out = dominated(values)
        for index in range(0, count, 7):
            below = (values <= values[index]).all(axis=1) & (values < values[index]).any(axis=1)
            equal = (values == values[index]).all(axis=1)[:index].any()
            assert out[index] == (below.any() or equal)
    assert list(dominated([[1.0, 9], [2, 8]], [[1.2, 11], [2.2, 9]])) == [False, False]
    assert list(dominated([[1.0, 9], [2, 10]], [[1.2, 9.5], [2.2, 11]])) == [False, True]
    assert spread(list(range(9)), 3) == [0, 4, 8]
    assert spread([1, 2], 5) == [1, 2]
    assert spread([1, 2, 3], 1) == [2]


def test_the_real_measures(tmp_path):
    result = run(tmp_path, space())
    assert result["points"] == 16
    assert result["dropped"] == {
        "does not fit: scratchpad must have at least N words for this model": 4}
    assert result["compared"] == 12
    assert all(0.9 < row["figures"]["int_top1"] <= 1 for row in result["front"])
    cycles = [row["figures"]["cycles"] for row in result["front"]]
    assert cycles == sorted(cycles)
    again = run(tmp_path, space())
    assert result["work"]["compile"] == {"found": 0, "measured": 16, "refused": 4}
    assert again["work"]["compile"] == {"found": 16, "refused": 4}
    for name in "front", "front_digest", "dropped":
        assert again[name] == result[name]


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    alone = run(tmp_path, space(), name="alone")
    with Cluster(workers=2) as cluster:
        shared = run(tmp_path, space(), name="shared", cluster=cluster)
    assert shared["front"] == alone["front"]
    assert shared["work"] == alone["work"]


def test_syntheses_replace_estimates_and_prune(tmp_path, quick):
    chosen = space(finalists={"count": 2, "syntheses": 20, "measures": ["synthesis", "rtl"]},
                   config={"preset": "small", "rows": [4, 8, 12, 16], "cols": [2, 4, 6, 8],
                           "norm_roots": [1, 2, 4], "weight_bits": [4, 8]})
    result = run(tmp_path, chosen)
    assert result["pruned"]["dominated"] > 0
    assert result["pruned"]["synthesized"] < result["compared"]
    assert quick.count("synthesis") <= 22
    assert all(row["checked"]["mismatches"] == 0 for row in result["finalists"])
    assert len(result["finalists"]) == 2
    assert all(row["area"] == "synthesis" for row in result["finalists"])
    quick.clear()
    assert run(tmp_path, chosen)["front"] == result["front"]
    assert quick == []


def test_a_failing_synthesis_is_recorded_and_stops_nothing(tmp_path, monkeypatch):
    failing = [True]

    def measured(shared, name, inputs):
        if name == "synthesis" and inputs["config"]["rows"] == 8 and failing[0]:
            return {"failed": "Yosys failed: no luck"}, 0.1
        return {"values": made_up(name, inputs)}, 0.1

    monkeypatch.setattr(module, "measured", measured)
    chosen = space(finalists={"count": 2, "syntheses": 20, "measures": ["synthesis"]})
    result = run(tmp_path, chosen)
    assert result["failures_in_all"] > 0
    assert result["failures"][0]["reason"] == "Yosys failed: no luck"
    assert result["dropped"]["synthesis failed"] == result["failures_in_all"]
    assert all(row["config"]["rows"] == 4 for row in result["front"])
    failing[0] = False
    assert run(tmp_path, chosen)["failures_in_all"] > 0
    assert run(tmp_path, chosen, retry=True)["failures_in_all"] == 0


def test_what_a_measure_raises_is_one_line(monkeypatch):
    def broken(**inputs):
        raise inputs["kind"]("one\ntwo")

    for kind in ValueError, RuntimeError, OSError, MemoryError:
        monkeypatch.setitem(point_measures.MEASURES, "synthesis", (broken, ()))
        assert point_measures.measured(None, "synthesis", {"kind": kind})[0] == {"failed": "one"}


def test_the_sampler_is_reproducible(tmp_path, quick):
    pytest.importorskip("optuna", reason="the extra explore is not installed")
    config = {"preset": "small", "rows": {"from": 2, "to": 24, "step": 2},
              "cols": {"from": 2, "to": 20, "step": 2}, "acc_bits": [24, 28, 32],
              "weight_bits": [4, 8]}
    search = {"sampler": "nsga2", "points": 90}
    one, two, other = (run(tmp_path, space(config=config, search={**search, "seed": seed}),
                           name=str(index)) for index, seed in enumerate((3, 3, 4)))
    assert one["points"] == 90
    assert one["skipped"]
    assert one["front"] == two["front"]
    assert one["cloud"] == two["cloud"]
    assert one["cloud"] != other["cloud"]
    everything = run(tmp_path, space(config=config), name="all")
    best = everything["front"][0]["figures"]["cycles"]
    assert one["front"][0]["figures"]["cycles"] <= 2 * best


def test_time_is_up(tmp_path, quick):
    result = run(tmp_path, space(search={"minutes": 0}))
    assert result["front"] == []
    assert result["not_in_time"]["accuracy"] == 2
    assert run(tmp_path, space())["compared"] == 16


def test_stores(tmp_path):
    path = tmp_path / "s.sqlite"
    with Store(path) as store:
        store.put("k", "compile", {"a": 1}, {"values": {"cycles": 3}}, 0.5)
    with Store(path) as store:
        assert store.get(["k", "other"]) == {"k": ({"values": {"cycles": 3}}, 0.5)}
        assert store.counts() == {"compile": 1}
    (tmp_path / "text").write_text("no database, but long enough to be looked at as one" * 40)
    foreign = sqlite3.connect(tmp_path / "foreign")
    foreign.execute("CREATE TABLE a (b)")
    foreign.commit()
    foreign.close()
    for name in "text", "foreign", "none/s":
        with pytest.raises(StoreError, match=rf"^store '.*{name}' "), Store(tmp_path / name):
            pass


def test_area_model_on_held_out_syntheses():
    model = area_model()
    assert model.count >= 25
    assert model.median("lut") < 0.08
    assert model.median("ff") < 0.08
    assert model.median("dsp") == 0
    # Found without a fold that holds what is predicted: a fit of all is better than that.
    known = samples()
    seen = [abs(model.sizes(config)["lut"] / total["lut"] - 1) for config, _, total, _ in known]
    assert np.median(seen) < model.median("lut")
    # And worse with a figure planted wrong in every third.
    wrong = [(config, {group: {**size, "lut": size["lut"] * (3 if index % 3 == 0 else 1)}
                       for group, size in groups.items()},
              {**total, "lut": total["lut"] * (3 if index % 3 == 0 else 1)}, origin)
             for index, (config, groups, total, origin) in enumerate(known)]
    assert AreaModel(wrong).median("lut") > 0.08


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "explore needs either --space FILE or --goal TEXT"),
    (["--space", "none.toml"], "space 'none.toml' must be a .toml file that is there"),
    (["--goal", "quick"], "a goal must be like"),
    (["--goal", "fps at least 3 on moon for digits"], "board must be one of arty_s7_50"),
    (["--space", "{space}", "--store", "none/a"], "--store must be a file in an existing folder"),
    (["--space", "{space}", "--html", "a.txt"], "--html must be an .html file"),
    (["--space", "{space}", "--scheduler", "nowhere"], "scheduler 'nowhere' cannot be reached"),
])
def test_what_cannot_be_is_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "s.toml"
    path.write_text('[network]\nmodel = "digits"\n')
    assert main(["explore", *(part.format(space=path) for part in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err


def test_command(tmp_path, capsys, quick):
    path, page = tmp_path / "s.toml", tmp_path / "p.html"
    path.write_text('[network]\nmodel = "digits"\n[config]\nrows = [12, 24]\n[finalists]\n'
                    'count = 1\nsyntheses = 1\n')
    arguments = ["explore", "--space", str(path), "--store", str(tmp_path / "s.sqlite"),
                 "--html", str(page)]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["front"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "area model:" in out
    assert result["front"][0]["point"] in out
    assert "finalists:" in out
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(tmp_path):
    path, store = tmp_path / "s.toml", tmp_path / "s.sqlite"
    path.write_text('[network]\nmodel = "digits"\nimages = 60\n[config]\npreset = "small"\n'
                    'rows = [4, 8]\ncols = [2, 4]\nstream_fifo = {from = 16, to = 27}\n'
                    '[quantization]\nmethod = "minmax"\n[finalists]\ncount = 0\nsyntheses = 0\n')
    command = [sys.executable, "-m", "systola", "explore", "--space", str(path), "--store",
               str(store), "--json"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        count = 0
        while count < 10 and process.poll() is None:
            if store.exists():
                with Store(store) as opened:
                    count = opened.counts().get("compile", 0)
            time.sleep(0.1)
        process.kill()
    again = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert 10 <= again["work"]["compile"]["found"] < 48
    assert sum(again["work"]["compile"][name] for name in ("found", "measured")) == 48
    whole = run(tmp_path, Space.load(path), name="whole")
    assert whole["front"] == again["front"]
