"""A simulation's timeline as one HTML page: engines, array, and a table of what it waited for."""

import html
import json

from systola.hw.contract.isa import Engine, Opcode
from systola.sim.runs.timeline import CAUSES

__all__ = ["timeline_page"]

COLORS = {
    Opcode.LOAD: "#7a869a", Opcode.LOAD_PARAMS: "#b3bac5", Opcode.LOAD_TABLE: "#c9ced6",
    Opcode.LOAD_WEIGHTS: "#2684c9", Opcode.LOAD_NARROW: "#2684c9", Opcode.FETCH: "#6cb4e4",
    Opcode.LOAD_CODES: "#2684c9", Opcode.STORE: "#44546f", Opcode.COPY: "#8993a4",
    Opcode.MATMUL: "#2f855a", Opcode.SHIFTMAX: "#d9822b", Opcode.SHIFTGELU: "#b7527f",
    Opcode.LAYERNORM: "#7d5ba6", Opcode.MEAN: "#8d6e63",
    "weights": "#2684c9", "data": "#00897b", "drain": "#c0392b", "residual": "#e57373",
    "softmax": "#d9822b", "layernorm": "#7d5ba6", "gelu": "#b7527f", "mean": "#8d6e63",
    "load": "#7a869a", "stream": "#44546f", "start": "#d4c26a", "end": "#dfe3e8",
    "active": "#bfe3cd",
}


def timeline_page(timeline, title, report):
    """Return the page.

    Parameters
    ----------
    timeline : systola.sim.runs.timeline.Timeline
        What to draw.
    title : str
        What ran on what.
    report : dict
        `Simulation.report` of the run: figures beside the picture.
    """
    names = sorted({event.name for event in timeline.events})
    number = {name: index for index, name in enumerate(names)}
    opcodes = [opcode for opcode in Opcode if opcode in COLORS]
    data = {
        "cycles": timeline.cycles, "window": timeline.window, "names": names,
        "opcodes": [opcode.name for opcode in opcodes],
        "colors": [COLORS[opcode] for opcode in opcodes],
        "engines": [[engine.name, [
            [event.start, event.end, opcodes.index(event.opcode), number[event.name]]
            for event in timeline.of(engine)]] for engine in Engine],
        "causes": [[cause, text, COLORS[cause]] for cause, text in CAUSES.items()],
        "active": COLORS["active"],
        "gaps": [[gap.start, gap.end, list(CAUSES).index(gap.cause)] for gap in timeline.gaps],
    }
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return (_PAGE.replace("@TITLE@", html.escape(title)).replace("@FIGURES@", _figures(report))
            .replace("@TABLE@", _table(timeline)).replace("@DATA@", text))


def _figures(report):
    overhead = report.get("overhead")
    parts = [("cycles", f"{report['cycles']:,}"), ("utilisation", f"{report['utilisation']:.1%}"),
             ("beyond the tiles' passes", "" if overhead is None else f"{overhead:.2%}"),
             ("differences from the models", f"{report['mismatches']:,}")]
    return "".join(f"<div><b>{value}</b>{html.escape(name)}</div>" for name, value in parts
                   if value)


def _table(timeline):
    cycles = max(timeline.window[1] - timeline.window[0], 1)
    idle = timeline.idle()
    rows = [(f'<i style="background:{COLORS["active"]}"></i>a word entered the array',
             cycles - sum(idle.values()))]
    rows += [(f'<i style="background:{COLORS[cause]}"></i>waited for {html.escape(text)}',
              idle[cause]) for cause, text in CAUSES.items()]
    return "".join(f"<tr><td>{text}</td><td>{count:,}</td><td>{count / cycles:.2%}</td></tr>"
                   for text, count in rows)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title><style>
body { font: 14px/1.45 system-ui, sans-serif; margin: 24px; color: #1d2733; max-width: 1500px; }
h1 { font-size: 20px; margin: 0 0 12px; }
#figures { display: flex; gap: 32px; margin-bottom: 16px; }
#figures div { color: #5b6b7d; } #figures b { display: block; font-size: 19px; color: #1d2733; }
canvas { width: 100%; display: block; border: 1px solid #d5dbe3; border-radius: 4px; }
#note { color: #5b6b7d; min-height: 1.5em; margin: 8px 0 20px; white-space: pre; }
table { border-collapse: collapse; } td, th { padding: 3px 14px 3px 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr + tr td { border-top: 1px solid #eceff3; }
i { display: inline-block; width: 12px; height: 12px; margin-right: 8px; border-radius: 2px; }
button { font: inherit; margin-right: 6px; } #bar { margin: 8px 0; } #key span { margin-right: 14px;
white-space: nowrap; }
</style></head><body>
<h1>@TITLE@</h1><div id="figures">@FIGURES@</div>
<div id="bar"><button id="all">all</button><button id="in">closer</button>
<button id="out">wider</button> wheel: zoom, drag: move</div>
<canvas id="chart"></canvas><div id="note"></div><p id="key"></p>
<table><tr><th>From the first weights to the last result</th><th>cycles</th><th>share</th></tr>
@TABLE@</table>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("chart"), g = canvas.getContext("2d");
const note = document.getElementById("note");
const LEFT = 74, AXIS = 24, ROW = 54, STRIP = 20, PAD = 8;
const rows = [D.engines[0], D.engines[1], ["array", null], D.engines[2]];
let low = 0, high = D.cycles, width = 0;
document.getElementById("key").innerHTML = D.opcodes.map((name, k) =>
  `<span><i style="background:${D.colors[k]}"></i>${name.toLowerCase()}</span>`).join("");

function at(time) { return LEFT + (time - low) / (high - low) * (width - LEFT); }
function time(x) { return low + (x - LEFT) / (width - LEFT) * (high - low); }
function top_of(row) { return AXIS + row * ROW + PAD; }
function first(list, t) {  // index of the first entry that ends after t; ends are in order
  let a = 0, b = list.length;
  while (a < b) { const m = a + b >> 1; if (list[m][1] > t) b = m; else a = m + 1; }
  return a;
}
function axis() {
  const span = high - low, raw = span / 8, unit = Math.pow(10, Math.floor(Math.log10(raw)));
  const step = Math.max([1, 2, 5, 10].find(k => k * unit >= raw) * unit, 1);
  g.fillStyle = "#5b6b7d"; g.strokeStyle = "#eceff3"; g.textAlign = "center";
  for (let t = Math.ceil(low / step) * step; t <= high; t += step) {
    g.beginPath(); g.moveTo(at(t), AXIS); g.lineTo(at(t), AXIS + rows.length * ROW); g.stroke();
    g.fillText(Math.round(t).toLocaleString("en"), Math.min(at(t), width - 30), 15);
  }
}
function operations(list, y) {
  for (let k = first(list, low); k < list.length && list[k][0] < high; k++) {
    const [a, b, code, name] = list[k], x = Math.max(at(a), LEFT);
    const w = Math.max(Math.min(at(b), width) - x, 0.6), lane = y + k % 2 * STRIP;
    g.fillStyle = D.colors[code]; g.fillRect(x, lane, w, STRIP - 2);
    if (w > 60) {
      g.save(); g.beginPath(); g.rect(x, lane, w - 3, STRIP); g.clip();
      g.fillStyle = "#fff"; g.textAlign = "left"; g.fillText(D.names[name], x + 4, lane + 13);
      g.restore();
    }
  }
}
function array(y) {  // per pixel, the share of its cycles in which the array worked or waited
  const count = Math.ceil(width - LEFT), per = (high - low) / count, n = D.causes.length;
  const share = new Float64Array(count * n), h = 2 * STRIP - 2;
  for (let k = first(D.gaps, low); k < D.gaps.length && D.gaps[k][0] < high; k++) {
    const [a, b, cause] = D.gaps[k];
    let x = Math.max(Math.floor((a - low) / per), 0);
    for (; x < count && low + x * per < b; x++)
      share[x * n + cause] += Math.min(b, low + (x + 1) * per) - Math.max(a, low + x * per);
  }
  for (let x = 0; x < count; x++) {
    const t = low + x * per;
    if (t + per <= D.window[0] || t >= D.window[1]) continue;
    g.fillStyle = D.active; g.fillRect(LEFT + x, y, 1, h);
    let from = y;
    for (let cause = 0; cause < n; cause++) {
      const part = share[x * n + cause] / per * h;
      if (part > 0) { g.fillStyle = D.causes[cause][2]; g.fillRect(LEFT + x, from, 1, part); }
      from += part;
    }
  }
}
function draw() {
  const scale = window.devicePixelRatio || 1;
  width = canvas.clientWidth;
  const height = AXIS + rows.length * ROW;
  canvas.width = width * scale; canvas.height = height * scale;
  canvas.style.height = height + "px";
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height); g.font = "12px system-ui, sans-serif";
  axis();
  rows.forEach(([name, list], row) => {
    if (list) operations(list, top_of(row)); else array(top_of(row));
    g.fillStyle = "#1d2733"; g.textAlign = "left"; g.fillText(name.toLowerCase(), 8,
      top_of(row) + STRIP + 3);
  });
}
function zoom(factor, x) {
  const center = time(x), span = Math.min(Math.max((high - low) * factor, 40), D.cycles);
  low = Math.min(Math.max(center - (center - low) / (high - low) * span, 0), D.cycles - span);
  high = low + span; draw();
}
function move(by) {
  const span = high - low;
  low = Math.min(Math.max(low + by, 0), D.cycles - span); high = low + span; draw();
}
function describe(x, y) {
  const t = time(x), row = Math.floor((y - AXIS) / ROW);
  if (x < LEFT || row < 0 || row >= rows.length) return "";
  const cycle = Math.floor(t).toLocaleString("en"), list = rows[row][1];
  if (!list) {
    const gap = D.gaps[first(D.gaps, t)];
    const idle = gap && gap[0] <= t, inside = t >= D.window[0] && t < D.window[1];
    return `cycle ${cycle}: ` + (idle ? `waits ${gap[1] - gap[0]} cycles for ` +
      D.causes[gap[2]][1] : inside ? "a word enters the array" : "outside the window");
  }
  const lane = y - top_of(row) < STRIP ? 0 : 1;
  for (let k = first(list, t); k < list.length && list[k][0] <= t; k++)
    if (k % 2 === lane) {
      const [a, b, code, name] = list[k];
      return `${D.opcodes[code]} ${D.names[name]}: ${(b - a).toLocaleString("en")} cycles from ` +
        a.toLocaleString("en");
    }
  return `cycle ${cycle}`;
}
let held = null;
canvas.addEventListener("wheel", e => { e.preventDefault();
  zoom(e.deltaY > 0 ? 1.25 : 0.8, e.offsetX); }, {passive: false});
canvas.addEventListener("mousedown", e => { held = e.offsetX; });
window.addEventListener("mouseup", () => { held = null; });
canvas.addEventListener("mousemove", e => {
  if (held !== null) { move((held - e.offsetX) / (width - LEFT) * (high - low)); held = e.offsetX; }
  note.textContent = describe(e.offsetX, e.offsetY);
});
document.getElementById("all").onclick = () => { low = 0; high = D.cycles; draw(); };
document.getElementById("in").onclick = () => zoom(0.5, (LEFT + width) / 2);
document.getElementById("out").onclick = () => zoom(2, (LEFT + width) / 2);
window.addEventListener("resize", draw);
draw();
</script></body></html>
"""
