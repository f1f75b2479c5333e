"""A front of `systola explore` as one HTML page: points, parallel coordinates, configurations."""

import html
import json

from systola.files.at_once import write_at_once

__all__ = ["explore_page", "write_explore_page"]


def write_explore_page(path, result):
    """Write the page of what an exploration found, at once."""
    write_at_once(path, explore_page(result).encode())


def explore_page(result):
    """Return the page: one file that loads nothing.

    Parameters
    ----------
    result : dict
        As `systola.explore.exploration.Exploration.run` returns it.
    """
    text = json.dumps(result, separators=(",", ":")).replace("</", "<\\/")
    title = f"Design space {result['space']}"
    return (_PAGE.replace("@TITLE@", html.escape(title)).replace("@TILES@", _tiles(result))
            .replace("@COUNTS@", _counts(result)).replace("@DATA@", text))


def _tiles(result):
    tiles = [("points", f"{result['points']:,}"), ("compared", f"{result['compared']:,}"),
             ("on the front", f"{len(result['front']):,}")]
    if result["pruned"]:
        tiles += [("synthesized", f"{result['pruned']['synthesized']:,}"),
                  ("median error of the area model, LUT",
                   f"{result['area_model']['median_error']['lut']:.1%}")]
    checked = [row["checked"]["mismatches"] for row in result["finalists"]
               if "mismatches" in row["checked"]]
    if checked:
        tiles.append((f"mismatches of {len(checked)} finalists", f"{sum(checked):,}"))
    return "".join(f"<div><b>{value}</b>{html.escape(name)}</div>" for name, value in tiles)


def _counts(result):
    rows = [("invalid", reason, count) for reason, count in result["skipped"].items()]
    rows += [("dropped", reason, count) for reason, count in result["dropped"].items()]
    if result["pruned"]:
        rows += [("not synthesized", reason, result["pruned"][reason])
                 for reason in ("dominated", "beyond limits", "undecided")]
    rows += [("failed", f"{row['measure']} of {row['point']}: {row['reason']}", 1)
             for row in result["failures"]]
    return "".join(f"<tr><td>{kind}</td><td>{html.escape(reason)}</td><td>{count:,}</td></tr>"
                   for kind, reason, count in rows)


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; margin: 0 auto; max-width: 1180px;
padding: 28px; }
h1 { font-size: 24px; margin: 0 0 14px; } h2 { font-size: 19px; margin: 0 0 4px; }
#figures { display: flex; flex-wrap: wrap; gap: 14px 40px; padding: 16px 20px; background: #f5f7fa;
border-radius: 8px; }
#figures div { color: #5b6b7d; } #figures b { display: block; font-size: 21px; color: #1d2733; }
section { margin-top: 34px; border-top: 1px solid #e3e7ed; padding-top: 20px; }
section p { color: #5b6b7d; margin: 0 0 12px; }
svg { display: block; max-width: 100%; } svg text { font: 12px system-ui, sans-serif;
fill: #5b6b7d; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
td, th { padding: 3px 16px 3px 0; text-align: right; white-space: nowrap; }
td:first-child, th:first-child, #counts td:nth-child(2) { text-align: left; }
#counts td:nth-child(2) { white-space: normal; }
tbody tr + tr td { border-top: 1px solid #eef1f5; }
#table tbody tr { cursor: pointer; } #table tbody tr.chosen { background: #fdf1d8; }
#filters { display: flex; flex-wrap: wrap; gap: 8px 18px; font-size: 13px; color: #5b6b7d; }
#filters label { display: inline-flex; gap: 4px; align-items: center; }
#filters input[type=number] { width: 84px; }
pre { font-size: 12px; background: #f5f7fa; padding: 12px; overflow-x: auto; }
button, select { font: inherit; padding: 2px 10px; }
.dot { fill: #2684c9; cursor: pointer; } .dot.model { fill: #fff; stroke: #2684c9;
stroke-width: 1.6; }
.dot.chosen { fill: #d9822b; stroke: #d9822b; } .dot.out { opacity: .12; }
.cloud { fill: #c9ced6; }
.line { fill: none; stroke: #2684c9; stroke-width: 1.2; opacity: .55; cursor: pointer; }
.line.out { stroke: #c9ced6; opacity: .25; } .line.chosen { stroke: #d9822b; stroke-width: 3;
opacity: 1; }
.brush { fill: #d9822b; opacity: .25; }
</style></head><body><h1>@TITLE@</h1><div id="figures">@TILES@</div>
<section id="front"><h2>Front</h2>
<p>No point is better than one of these in every objective. Filled: area by synthesis; hollow: by
the area model. Grey: points that are not on the front. A click chooses a point.</p>
<p><select id="x"></select> across, <select id="y"></select> up</p>
<div id="scatter"></div></section>
<section id="parallel"><h2>Parallel coordinates</h2>
<p>A line for each point of the front. Drag along an axis to keep what crosses it there; a click on
the axis lets all through again.</p><div id="coordinates"></div></section>
<section id="filter"><h2>Filters</h2><div id="filters"></div><p id="shown"></p></section>
<section id="points"><h2>Points</h2><div id="table"></div></section>
<section id="configuration"><h2>Configuration</h2>
<p id="which">No point is chosen.</p><p><button id="copy" disabled>Copy</button>
<span id="said"></span></p><pre id="toml"></pre><pre id="commands"></pre></section>
<section id="left"><h2>What was left out, and why</h2>
<table id="counts"><tbody>@COUNTS@</tbody></table></section>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const rows = data.front, NS = "http://www.w3.org/2000/svg";
const byId = name => document.getElementById(name);
const figures = [...new Set(rows.flatMap(row => Object.keys(row.figures)))]
  .filter(name => rows.every(row => name in row.figures));
const varied = Object.keys(data.axes).filter(
  name => new Set(rows.map(row => String(row.choices[name]))).size > 1);
const first = [...data.objectives, ...["dsp", "energy_uj"].filter(
  name => figures.includes(name) && !data.objectives.includes(name))];
const columns = [...first, ...varied].map(name => {
  const inFigures = figures.includes(name);
  const value = row => inFigures ? row.figures[name] : row.choices[name];
  const found = [...new Set(rows.map(value))];
  const number = found.every(item => typeof item === "number");
  found.sort(number ? (a, b) => a - b : undefined);
  const low = found[0], high = found[found.length - 1];
  const even = number && inFigures;
  const place = item => found.length === 1 ? .5
    : even ? (item - low) / (high - low) : found.indexOf(item) / (found.length - 1);
  return {name, value, found, number, low, high, even, place};
});
const kept = columns.map(() => null), brushed = columns.map(() => null);
let chosen = null;

function make(parent, kind, attributes, text) {
  const element = document.createElementNS(NS, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.appendChild(element);
  return element;
}
function format(value) {
  if (typeof value !== "number") return String(value);
  return value.toLocaleString("en", {maximumFractionDigits: Math.abs(value) < 10 ? 4 : 1});
}
function passes(row) {
  return columns.every((column, index) => {
    const value = column.value(row), keep = kept[index], brush = brushed[index];
    if (keep && (column.number ? value < keep[0] || value > keep[1] : !keep.has(value)))
      return false;
    return !brush || (column.place(value) >= brush[0] - 1e-9
      && column.place(value) <= brush[1] + 1e-9);
  });
}
function scatter() {
  const W = 1120, H = 420, L = 80, B = 40, x = byId("x").value, y = byId("y").value;
  const at = name => row => row.figures[name];
  const cloud = data.objectives.includes(x) && data.objectives.includes(y)
    ? data.cloud.map(point => [point[data.objectives.indexOf(x)],
                               point[data.objectives.indexOf(y)]]) : [];
  const all = [...cloud, ...rows.map(row => [at(x)(row), at(y)(row)])];
  const span = index => {
    const values = all.map(item => item[index]);
    const low = values.reduce((a, b) => Math.min(a, b), Infinity);
    const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    return low === high ? [low - 1, high + 1] : [low, high];
  };
  const [[x0, x1], [y0, y1]] = [span(0), span(1)];
  const px = value => L + (value - x0) / (x1 - x0) * (W - L - 20);
  const py = value => H - B - (value - y0) / (y1 - y0) * (H - B - 16);
  byId("scatter").replaceChildren();
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  byId("scatter").appendChild(svg);
  for (let k = 0; k <= 4; k++) {
    const vx = x0 + (x1 - x0) * k / 4, vy = y0 + (y1 - y0) * k / 4;
    make(svg, "line", {x1: px(vx), x2: px(vx), y1: 10, y2: H - B, stroke: "#eef1f5"});
    make(svg, "line", {x1: L, x2: W - 20, y1: py(vy), y2: py(vy), stroke: "#eef1f5"});
    make(svg, "text", {x: px(vx), y: H - B + 18,
                       "text-anchor": k < 4 ? "middle" : "end"}, format(vx));
    make(svg, "text", {x: L - 8, y: py(vy) + 4, "text-anchor": "end"}, format(vy));
  }
  make(svg, "text", {x: W - 20, y: H - 4, "text-anchor": "end"}, x);
  make(svg, "text", {x: 4, y: 12}, y);
  for (const [vx, vy] of cloud)
    make(svg, "circle", {cx: px(vx), cy: py(vy), r: 2, class: "cloud"});
  rows.forEach((row, index) => {
    const dot = make(svg, "circle", {cx: px(at(x)(row)), cy: py(at(y)(row)), r: 6,
      class: "dot" + (row.area === "model" ? " model" : ""), "data-index": index});
    make(dot, "title", {}, row.point);
    dot.addEventListener("click", () => choose(index));
  });
}
function coordinates() {
  const W = 1120, H = 330, T = 34, B = 26, step = (W - 160) / Math.max(columns.length - 1, 1);
  const px = index => 80 + step * index, py = place => H - B - place * (H - T - B);
  const svg = document.createElementNS(NS, "svg");
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  byId("coordinates").replaceChildren(svg);
  rows.forEach((row, index) => {
    const line = make(svg, "path", {class: "line", "data-index": index, d: "M" + columns.map(
      (column, k) => `${px(k).toFixed(1)} ${py(column.place(column.value(row))).toFixed(1)}`)
      .join("L")});
    make(line, "title", {}, row.point);
    line.addEventListener("click", () => choose(index));
  });
  columns.forEach((column, index) => {
    const x = px(index);
    make(svg, "line", {x1: x, x2: x, y1: T, y2: H - B, stroke: "#5b6b7d"});
    make(svg, "text", {x, y: index % 2 ? 12 : 26, "text-anchor": "middle"}, column.name);
    const marks = column.even ? [column.low, column.high] : column.found;
    for (const mark of marks.length > 9 ? [column.low, column.high] : marks)
      make(svg, "text", {x: x + 5, y: py(column.place(mark)) + 4}, format(mark));
    const brush = make(svg, "rect", {class: "brush", x: x - 8, width: 16, y: 0, height: 0});
    const grip = make(svg, "rect", {x: x - 12, width: 24, y: T - 6, height: H - T - B + 12,
      fill: "transparent", style: "cursor: ns-resize; touch-action: none"});
    const place = event => {
      const box = svg.getBoundingClientRect();
      const y = (event.clientY - box.top) * H / box.height;
      return Math.min(Math.max((H - B - y) / (H - T - B), 0), 1);
    };
    let start = null;
    grip.addEventListener("pointerdown", event => {
      start = place(event);
      grip.setPointerCapture(event.pointerId);
    });
    grip.addEventListener("pointermove", event => {
      if (start === null) return;
      const end = place(event);
      brushed[index] = Math.abs(end - start) < .01 ? null
        : [Math.min(start, end), Math.max(start, end)];
      const [low, high] = brushed[index] || [0, 0];
      brush.setAttribute("y", py(high));
      brush.setAttribute("height", py(low) - py(high));
      mark();
    });
    grip.addEventListener("pointerup", event => {
      if (start !== null && Math.abs(place(event) - start) < .01) {
        brushed[index] = null;
        brush.setAttribute("height", 0);
        mark();
      }
      start = null;
    });
  });
}
function filters() {
  columns.forEach((column, index) => {
    const field = document.createElement("span");
    field.append(column.name + " ");
    if (column.number) {
      const ends = [column.low, column.high].map((value, k) => {
        const input = document.createElement("input");
        Object.assign(input, {type: "number", value, step: "any"});
        input.dataset.filter = column.name + (k ? " to" : " from");
        input.addEventListener("input", () => {
          kept[index] = ends.map((end, m) => end.value === ""
            ? [column.low, column.high][m] : Number(end.value));
          mark();
        });
        field.append(input, k ? "" : " to ");
        return input;
      });
    } else {
      kept[index] = new Set(column.found);
      for (const item of column.found) {
        const label = document.createElement("label"), input = document.createElement("input");
        Object.assign(input, {type: "checkbox", checked: true});
        input.addEventListener("change", () => {
          kept[index][input.checked ? "add" : "delete"](item);
          mark();
        });
        label.append(input, String(item));
        field.append(label);
      }
    }
    byId("filters").append(field);
  });
}
function list() {
  const names = ["point", ...columns.map(column => column.name), "area by", "checked"];
  const head = names.map(name => `<th>${name}</th>`).join("");
  byId("table").innerHTML = `<table><thead><tr>${head}</tr></thead><tbody></tbody></table>`;
  const checks = Object.fromEntries(data.finalists.map(row => [row.point, row.checked]));
  rows.forEach((row, index) => {
    const line = document.createElement("tr"), check = checks[row.point];
    line.dataset.index = index;
    const said = !check ? "" : check.failed ? "failed: " + Object.keys(check.failed).join(", ")
      : "mismatches" in check ? `${check.mismatches} mismatches` : "measured";
    for (const value of [row.point, ...columns.map(column => format(column.value(row))),
                         row.area || "", said]) {
      const cell = document.createElement("td");
      cell.textContent = value;
      line.append(cell);
    }
    line.addEventListener("click", () => choose(index));
    byId("table").querySelector("tbody").append(line);
  });
}
function mark() {
  const inside = rows.map(passes);
  for (const element of document.querySelectorAll("[data-index]")) {
    const index = Number(element.dataset.index);
    element.classList.toggle("out", !inside[index]);
    element.classList.toggle("chosen", index === chosen);
    if (element.tagName === "TR") element.hidden = !inside[index];
  }
  byId("shown").textContent = `${inside.filter(Boolean).length} of ${rows.length} points`;
}
function choose(index) {
  chosen = index;
  const row = rows[index];
  byId("which").textContent = `Point ${row.point}: ` + Object.entries(row.figures).map(
    ([name, value]) => `${name} ${format(value)}`).join(", ");
  byId("toml").textContent = Object.entries(row.config).map(
    ([name, value]) => `${name} = ${JSON.stringify(value)}`).join("\\n") + "\\n";
  const options = Object.entries(row.quantization).filter(([name, value]) => value !== null
    && (name !== "attention_bits" || row.quantization.attention === "published")).map(
    ([name, value]) => `--${name.replaceAll("_", "-")} ${value}`).join(" ");
  const model = data.network.model, batch = row.batch > 1
    ? ` --images ${row.batch} --batch ${row.batch}` : "";
  byId("commands").textContent = data.network.random_weights
    ? `systola simulate --model ${model} --random-weights --config point.toml${batch}\\n`
    : `systola quantize --model ${model} ${options} -o point.safetensors\\n`
      + `systola simulate --model point.safetensors --config point.toml${batch}\\n`;
  byId("copy").disabled = false;
  byId("said").textContent = "";
  mark();
}
byId("copy").addEventListener("click", async () => {
  const text = byId("toml").textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page of a file may have no clipboard
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  byId("said").textContent = "copied: save it as point.toml";
});
if (rows.length) {
  for (const [name, preset] of [["x", 0], ["y", 1]]) {
    for (const figure of figures) byId(name).add(new Option(figure, figure));
    byId(name).value = data.objectives[Math.min(preset, data.objectives.length - 1)];
    byId(name).addEventListener("change", () => { scatter(); mark(); });
  }
  filters();
  scatter();
  coordinates();
  list();
  mark();
} else byId("shown").textContent = "No point is within the limits.";
</script></body></html>
"""
