"use strict";
// Curves, bars and the tree: panels of series that Python has computed, drawn when they come into view.

// -- looks ------------------------------------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const redraw = new Set();
dark.addEventListener("change", () => redraw.forEach((draw) => draw()));

function axis(title, more = {}) {
  const line = { gridcolor: css("--grid"), zerolinecolor: css("--grid"), linecolor: css("--line"), tickcolor: css("--line") };
  return { title: { text: title, font: { size: 12 } }, automargin: true, ...line, ...more };
}

function layout(more = {}) {
  const font = { color: css("--ink"), family: "system-ui, sans-serif", size: 12 };
  const ground = { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)" };
  const label = { bgcolor: css("--raised"), bordercolor: css("--line"), font: { color: css("--ink") } };
  const modebar = { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: css("--accent") };
  return { font, ...ground, modebar, showlegend: false, margin: { l: 8, r: 8, t: 8, b: 8 }, hoverlabel: label, ...more };
}

// -- curves, bars and the tree ----------------------------------------------------------------------------------------

const DASHES = ["solid", "dash", "dot"];
const colourAt = (index) => motorpool.data.charts.colours[index % motorpool.data.charts.colours.length];
// The colour of a cluster of a model, on the ground that the page has.
const onGround = (colour) => (dark.matches ? motorpool.data.charts.on_dark[colour] : undefined) ?? colour;
function clusterColour(c, model) {
  const { grey, palettes } = motorpool.data.charts;
  return c < 0 ? grey : onGround(palettes[model]?.[c] ?? colourAt(c));
}
const dashAt = (index) => DASHES[Math.floor(index / motorpool.data.charts.colours.length) % DASHES.length];

function legendMark(series) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  const colour = colourAt(series.colour);
  for (const [key, value] of [["width", 26], ["height", 12], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
  const shape = document.createElementNS(ns, series.kind === "line" ? "line" : "circle");
  const dash = { solid: "", dash: "6 3", dot: "2 3" }[dashAt(series.colour)];
  const drawn = series.kind === "line"
    ? { x1: 1, x2: 25, y1: 6, y2: 6, stroke: colour, "stroke-width": 3, "stroke-dasharray": dash }
    : { cx: 13, cy: 6, r: 4, fill: colour };
  for (const [key, value] of Object.entries(drawn)) shape.setAttribute(key, value);
  svg.append(shape);
  return svg;
}

function fillLegend(list, chart) {
  const names = new Map();
  for (const panel of chart.panels) for (const s of panel.series) if (!names.has(s.name)) names.set(s.name, s);
  list.replaceChildren();
  for (const [name, series] of names) {
    // A single set of bars is named by the axis.
    if (series.kind === "bars" && names.size === 1) continue;
    const item = make("li");
    item.append(legendMark(series), make("span", name));
    list.append(item);
  }
}

function traceOf(series) {
  const colour = colourAt(series.colour);
  const x = series.x, y = series.y;
  if (series.kind === "bars") {
    return { type: "bar", orientation: "h", x, y: series.text.map(short), marker: { color: series.fill.length ? series.fill.map(onGround) : colourAt(series.colour), line: { color: css("--soft"), width: 0.5 } }, name: escaped(series.name), hovertext: series.text.map(escaped), hovertemplate: "%{hovertext}: %{x:.2f} % (%{fullData.name})<extra></extra>" };
  }
  const hollow = series.hollow.length ? series.hollow : x.map(() => false);
  const open = hollow.map((h) => (h ? "circle-open" : "circle"));
  const text = series.text.map((id, i) => `model ${id}${hollow[i] ? ", not ranked" : ""}`);
  const mode = series.kind === "line" ? (x.length > 40 ? "lines" : "lines+markers") : "markers";
  return {
    type: "scatter", mode, x, y, name: escaped(series.name), text, hovertemplate: `%{x}: %{y:.4~g}<br>${text.length ? "%{text}<br>" : ""}%{fullData.name}<extra></extra>`,
    line: { color: colour, width: 2, dash: dashAt(series.colour) }, marker: { color: colour, size: 6, symbol: open },
  };
}

// Plotly reads a few tags in its texts: names must not become any.
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const short = (text) => escaped(text.length > 30 ? `${text.slice(0, 29)}…` : text);

function panelLayout(chart, panel, range) {
  const bars = panel.series.some((s) => s.kind === "bars");
  const x = axis(panel.x_label, panel.log_x ? { type: "log", dtick: 1 } : { rangemode: "normal" });
  const y = bars ? axis("", { autorange: "reversed", type: "category", showgrid: false }) : axis(panel.y_label, chart.share_y ? { range, nticks: 7 } : { nticks: 7 });
  const tallest = Math.max(...panel.series.map((s) => s.x.length));
  // Bars beside each other take more room.
  const slot = panel.series.length > 1 ? 36 : 24;
  return layout({ height: bars ? 70 + slot * tallest : 260, xaxis: x, yaxis: y, dragmode: coarse.matches ? false : "zoom", bargap: 0.3 });
}

async function drawChart(figure) {
  const chart = (await load("charts"))[figure.dataset.chart];
  if (!chart) return;
  await plotly();
  const place = $(".panels", figure);
  if (chart.tree) return drawTree(place, chart.tree);
  if (chart.panels.length === 1) place.classList.add("wide");
  if (chart.panels[0].series[0]?.kind === "bars") place.classList.add("bars");
  const all = chart.panels.flatMap((p) => p.series.flatMap((s) => s.y));
  const pad = 0.04 * (Math.max(...all) - Math.min(...all) || 1);
  const range = [Math.min(...all) - pad, Math.max(...all) + pad];
  fillLegend($(".legend", figure), chart);
  for (const panel of chart.panels) {
    const box = make("div", "", { class: "panel" });
    const plot = make("div", "", { role: "img", "aria-label": `${chart.title}: ${panel.title}` });
    box.append(make("h5", panel.title), plot);
    place.append(box);
    whenSeen(box, async () => {
      const draw = () => Plotly.react(plot, panel.series.map(traceOf), panelLayout(chart, panel, range), { displayModeBar: false, responsive: true });
      redraw.add(draw);
      await draw();
    });
  }
}

async function drawTree(place, tree) {
  place.classList.add("wide");
  const plot = make("div", "", { role: "img", "aria-label": "The agglomerative tree" });
  place.append(plot);
  const groups = new Map();
  tree.across.forEach((across, i) => {
    const c = tree.line_cluster[i];
    const line = groups.get(c) ?? groups.set(c, { x: [], y: [] }).get(c);
    line.x.push(...tree.height[i], null);
    line.y.push(...across, null);
  });
  const n = tree.names.length;
  const draw = () => {
    const traces = [...groups].map(([c, line]) => ({ type: "scatter", mode: "lines", ...line, line: { color: clusterColour(c, tree.model_id), width: 2 }, hoverinfo: "x" }));
    const narrow = place.clientWidth < 600;
    const ticks = { tickvals: tree.names.map((_, i) => 5 + 10 * i), ticktext: tree.names.map((t) => (narrow ? short(t.slice(0, 22)) : escaped(t))), side: "right", showgrid: false, zeroline: false, range: [-5, 10 * n + 5], tickfont: { size: 11 } };
    const cut = { type: "line", x0: tree.cut, x1: tree.cut, y0: 0, y1: 1, yref: "paper", line: { color: css("--soft"), width: 1, dash: "dash" } };
    return Plotly.react(plot, traces, layout({ height: 60 + 18 * n, xaxis: axis("height of the merge", { autorange: "reversed" }), yaxis: axis("", ticks), shapes: [cut], dragmode: false, hovermode: "closest" }), { displayModeBar: false, responsive: true });
  };
  redraw.add(draw);
  await draw();
}
