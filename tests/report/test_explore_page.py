"""The page of a front: what is in it, and drawn by a browser."""

import html
import json
import re
import shutil
import subprocess

import pytest

from systola.hw.contract.config import PRESETS
from systola.report.explore_page import explore_page, write_explore_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def row(index, **more):
    return {"point": f"p{index}", "choices": {
                "rows": 4 + index, "attention": "deferred" if index % 2
                else "normalised"},
            "figures": {"cycles": 100.5 - index, "lut": 9000 + 10 * index, "dsp": 4 + index,
                        "int_top1": 0.9 + index / 100}, "area": "model" if index else "synthesis",
            "config": PRESETS["tiny"].to_dict(),
            "quantization": {"weight_bits": 4, "codebook": None},
            "batch": 1, **more}


@pytest.fixture
def result():
    front = [row(index) for index in range(5)]
    return {"space": "a <b>", "network": {"model": "digits", "random_weights": False},
            "objectives": ["cycles", "lut", "int_top1"], "points": 40, "compared": 30,
            "axes": {"rows": [4, 5, 6, 7, 8], "attention": ["normalised", "deferred"]},
            "skipped": {"lanes must divide <rows>": 7}, "dropped": {}, "front": front,
            "finalists": [row(0, checked={"mismatches": 0})], "failures": [
                {"measure": "synthesis", "point": "p9", "reason": "Yosys </script> failed"}],
            "cloud": [[101, 9500, 0.9], [120, 9900, 0.95]],
            "area_model": {"median_error": {"lut": 0.0312}},
            "pruned": {"dominated": 20, "beyond limits": 2, "undecided": 3, "synthesized": 1}}


def test_what_is_in_it(result, tmp_path):
    text = explore_page(result)
    assert text.count("<script") == 2
    assert not re.search(r"(src|href)\s*=|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
    assert "<title>Design space a &lt;b&gt;</title>" in text
    assert html.escape("lanes must divide <rows>") in text
    assert "3.1%" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["front"] == result["front"]
    write_explore_page(tmp_path / "a.html", result)
    assert (tmp_path / "a.html").read_text() == text


@pytest.mark.skipif(BROWSER is None, reason="no chromium to look at the page with "
                    "(Debian: apt install chromium)")
def test_a_browser_draws_it_and_chooses_points(result, tmp_path):
    probe = """<script>addEventListener("load", () => {
      const set = (element, value) => { element.value = value;
                                        element.dispatchEvent(new Event("input")); };
      document.querySelectorAll("circle.dot")[1].dispatchEvent(new Event("click"));
      set(document.querySelector("[data-filter='cycles to']"), 99);
      document.body.dataset.loaded = performance.getEntriesByType("resource").length;
      document.body.dataset.hidden = document.querySelectorAll("#table tr[hidden]").length;
      document.body.dataset.copy = document.getElementById("copy").disabled;
    });</script></body>"""
    page = tmp_path / "a.html"
    page.write_text(explore_page(result).replace("</body>", probe))
    seen = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={tmp_path / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
         "--virtual-time-budget=5000", "--dump-dom", "--window-size=1280,1000", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True).stdout
    assert 'data-loaded="0"' in seen
    assert 'data-hidden="2"' in seen
    assert 'data-copy="false"' in seen
    # In the picture, among the parallel lines, in the table.
    assert len(re.findall(r'<(?:circle|path|polyline|tr)[^>]* data-index="\d"', seen)) == 5 + 5 + 5
    assert re.search(r'<pre id="toml">rows = 4\ncols = 4\n', seen)
    assert "2 of 5 points" not in seen
    assert "3 of 5 points" in seen
    assert "Point p1: cycles 99.5" in seen
