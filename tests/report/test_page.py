"""The HTML report: what is in it, drawn by a browser, from a small made-up measurement."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest
from amaranth.back import rtlil

from systola.boards.power.pe_designs import BASELINES, STYLES
from systola.boards.synthesis.sizes import ModuleSize, Size, unit_sizes
from systola.boards.synthesis.synth import Synthesis
from systola.cli.main import main
from systola.hw.accelerator import Accelerator
from systola.hw.contract.config import PRESETS
from systola.hw.contract.isa import Engine, Opcode
from systola.report import charts
from systola.report.page import render, write_page
from systola.sim.runs.simulate import Simulation
from systola.sim.runs.timeline import Event, Gap, Timeline

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def pe_row(operation, bits, style, energy, **more):
    return {"operation": operation, "bits": bits, "style": style, "lut": 31.5, "ff": 20, "carry": 4,
            "dsp": 0, "macs": 1, "toggles_per_cycle": 12.3, "energy_pj_per_mac": energy,
            "energy_low": energy / 2, "energy_high": energy * 2, "power_uw_per_pe": 100 * energy,
            "power_low": 0, "power_high": 0, "multiplier": "fabric", **more}


def module(instances, **own):
    own = {"lut": 0, "ff": 0, "carry": 0, "dsp": 0, "bram36": 0, **own}
    return {"instances": instances, **own, "own": own}


MODULES = {"systola": module(1, lut=1), "systola.registers": module(1, lut=10),
           "systola.core.matrix": module(1, lut=100), "systola.core.matrix.array": module(1, ff=7),
           "systola.core.matrix.array.cell_0_0": module(4, lut=5, dsp=1),
           "systola.core.matrix.drain.requant": module(2, lut=50),
           "systola.core.vector.norm": module(1, ff=60, bram36=0.5)}


@pytest.fixture
def content():
    timeline = Timeline(cycles=1000, window=(10, 900), gaps=[Gap(300, 340, "data")], events=[
        Event(Engine.LOAD, Opcode.LOAD_WEIGHTS, "blocks.0.qkv", {}, 10, 200),
        Event(Engine.MATRIX, Opcode.MATMUL, "blocks.0.qkv", {}, 30, 700),
        Event(Engine.VECTOR, Opcode.SHIFTMAX, "blocks.0.attention.0", {}, 700, 890)])
    run = Simulation(images=2, elements_compared=1234, cycles=1000, cycles_predicted=990,
                     utilisation=0.5, window=(10, 900), timeline=timeline)
    rng = np.random.default_rng(0)
    maps = [rng.dirichlet(np.ones(17), size=(2, 17)) for _ in range(2)]
    total = {name: sum(m["instances"] * m["own"][name] for m in MODULES.values())
             for name in ("lut", "ff", "carry", "dsp", "bram36")}
    return {
        "config": PRESETS["tiny"], "simulation": run,
        "pe": {"note": "estimates <only>", "rows": [
            pe_row("linear", 8, "dequant_first", 9.0, multiplier="fabric"),
            pe_row("linear", 8, "dequant_first", 7.0, multiplier="DSP slice"),
            pe_row("linear", 8, "lut", 2.0, baseline="dequant_first", ratio=0.22, ratio_low=0.1,
                   ratio_high=0.4),
            pe_row("av", 4, "shift", 0.5), pe_row("av", 8, "dsp_packed", 1.0)]},
        "synth": {"top": "systola", "modules": MODULES, "total": total},
        "evaluate": {"images": 9, "int_top1": 0.98, "float_top1": 0.99, "agreement": 0.97},
        "options": {"GELU table": {"int_top1": 0.9, "agreement": 0.95, "error_float": 0.01}},
        "roofline": ((16, 4), [("digits", 17.0, 6.0, True), ("deit", 197.0, 15.0, False)]),
        "attention": {"images": rng.random((2, 8, 8)), "labels": [3, 5], "predictions": [3, 6],
                      "accelerator": maps, "reference": maps, "title": "Digits"}}


class Page(HTMLParser):
    """Elements of a page: what they are, with what attributes, and the text of cells."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.cells, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside = tag == "td"

    def handle_data(self, data):
        if self.inside:
            self.cells.append(data)

    def all(self, kind):
        return [attrs for tag, attrs in self.elements if tag == kind]


SECTIONS = ["pe", "area", "roofline", "timeline", "accuracy", "attention", "configuration"]


def test_page_has_every_section_and_loads_nothing(content, tmp_path):
    write_page(tmp_path / "report.html", content)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert [attrs["id"] for attrs in page.all("section")] == SECTIONS
    assert [attrs["href"] for attrs in page.all("a")] == [f"#{name}" for name in SECTIONS[:-1]]
    assert len(page.all("img")) == 7
    assert not page.all("link")
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "url(" not in text
    assert "estimates &lt;only&gt;" in text
    assert {"dequant_first", "0.22 (0.10 to 0.40)", "0.9900"} <= set(page.cells)


def test_data_behind_the_page_is_complete(content):
    text = render(content)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["pe"] == content["pe"]
    assert data["config"] == content["config"].to_dict()
    assert data["simulate"]["cycles"] == 1000


def test_error_bars_and_lanes_are_in_the_charts(content):
    charts = [base64.b64decode(item.split(",")[1]).decode() for item in re.findall(
        r'src="([^"]*)"', render(content))]
    assert charts[0].count("LineCollection") >= 2  # the intervals, an operation each
    # Text is drawn as shapes named after their characters; a comment has the text.
    assert all(f"<!-- {name} -->" in charts[3] for name in ("LOAD", "MATRIX", "array", "VECTOR"))
    assert all(f"<!-- dequant_first in {kind} -->" in charts[0] for kind in ("fabric", "DSP slice"))
    assert all(f"<!-- {name} -->" in charts[1] for name in ("matrix.array", "vector.norm"))


def test_every_style_has_a_colour_of_its_own():
    colours = [charts._STYLES[style] for style in STYLES]
    assert len(set(colours)) == len(colours)
    assert len(charts._STYLES) == len(STYLES) + len(BASELINES)


def test_every_primitive_counts_in_one_unit(content):
    units = dict(unit_sizes(MODULES, "systola"))
    assert list(units) == ["matrix.array", "matrix.requantizer", "matrix.control", "vector.norm",
                           "registers"]
    assert units["matrix.array"] == {"lut": 20, "ff": 7, "carry": 0, "dsp": 4, "bram36": 0}
    assert units["matrix.requantizer"]["lut"] == 100
    for name, count in content["synth"]["total"].items():
        assert sum(size[name] for size in units.values()) == count


@pytest.mark.slow
def test_unit_names_are_those_of_the_accelerator():
    text = rtlil.convert(Accelerator(PRESETS["tiny"]), name="systola", emit_src=False)
    paths = re.findall(r"^module \\(\S+)$", text, re.MULTILINE)
    assert {name for name, _ in unit_sizes({path: module(1) for path in paths}, "systola")} >= {
        "matrix.array", "matrix.requantizer", "matrix.sums", "vector.softmax", "vector.gelu",
        "vector.norm", "load", "scratchpad", "parameters", "dispatcher", "registers", "queues"}


def browse(path, *options):
    """Run the browser without a network on a page; returns what it prints."""
    done = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--disable-dev-shm-usage", f"--user-data-dir={path.parent / 'profile'}",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", *options,
         path.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="no chromium to look at the page with "
                    "(Debian: apt install chromium)")
def test_a_browser_draws_the_page(content, tmp_path, artefacts):
    probe = """<script>addEventListener("load", () => {
      for (const image of document.images) image.dataset.width = image.naturalWidth;
      document.body.dataset.loaded = performance.getEntriesByType("resource").filter(
        entry => !entry.name.startsWith("data:")).length;
      document.body.dataset.wide = document.documentElement.scrollWidth - innerWidth;
    });</script></body>"""
    page = tmp_path / "report.html"
    page.write_text(render(content).replace("</body>", probe))
    seen = Page(browse(page, "--dump-dom", "--window-size=1280,1000"))
    assert seen.all("body")[0]["data-loaded"] == "0"
    assert int(seen.all("body")[0]["data-wide"]) <= 0
    assert all(int(image["data-width"]) > 300 for image in seen.all("img"))
    assert len(seen.all("img")) == 7
    assert [attrs["id"] for attrs in seen.all("section")] == SECTIONS
    shot = artefacts / "report.png"
    browse(page, f"--screenshot={shot}", "--window-size=1280,4200")
    picture = matplotlib.image.imread(shot)[:, :, :3]
    assert picture.shape[:2] == (4200, 1280)
    drawn = (picture < 0.98).any(axis=2)
    # Something on every stretch of the page down to the last picture.
    assert all(drawn[k:k + 420].mean() > 0.005 for k in range(0, 2940, 420))


def synthesized():
    total = Size()
    sizes = {}
    for path, item in MODULES.items():
        own = Size(**item["own"])
        sizes[path] = ModuleSize(item["instances"], own, own)
        total.add(own, item["instances"])
    return Synthesis("systola", "xc7", 1.0, total, sizes,
                     {"macs": 16, "lut_per_mac": 1.25, "ff_per_mac": 2.0, "macs_per_dsp": 4.0})


def test_area_command(monkeypatch, capsys):
    monkeypatch.setattr("systola.boards.synthesis.synth.synthesize",
                        lambda config, progress: synthesized())
    assert main(["report", "area", "--config", "tiny", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["units"]["matrix.array"]["dsp"] == 4
    assert result["total"]["lut"] == 231
    assert result["lut_per_mac"] == 1.25
    assert main(["report", "area", "--config", "tiny"]) == 0
    out = capsys.readouterr().out
    assert "vector.norm" in out
    assert "1.25 LUT" in out


@pytest.mark.slow
def test_html_command_measures_and_draws(monkeypatch, tmp_path, capsys, content):
    monkeypatch.setattr("systola.boards.synthesis.synth.synthesize",
                        lambda config, progress: synthesized())
    monkeypatch.setattr("systola.boards.power.pe_report.pe_report", lambda **options: content["pe"])
    monkeypatch.setattr("systola.model.evaluation.accuracy.OPTIONS",
                        {"full width": {"mult_bits": 31}})
    path = tmp_path / "report.html"
    assert main(["report", "--html", "-o", str(path), "--config", "small", "--images", "1"]) == 0
    assert "written to" in capsys.readouterr().out
    data = json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.DOTALL)[1])
    assert data["simulate"]["mismatches"] == 0
    assert data["evaluate"]["images"] == 359
    assert list(data["options"]) == ["full width"]
    assert len(Page(path.read_text()).all("img")) == 7


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "report needs --html -o FILE, or a command: area, "),
    (["--html"], "output must be an .html file in an existing folder, not None"),
    (["--html", "-o", "no/such/report.html"], "output must be an .html file in an existing"),
    (["--html", "-o", "report.txt"], "output must be an .html file in an existing"),
    (["--html", "-o", "r.html", "pe"], "--html and -o are without pe"),
    (["--html", "-o", "r.html", "--bits", "4,x"], "--bits must be numbers from 2 to 8 with")])
def test_wrong_options(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
