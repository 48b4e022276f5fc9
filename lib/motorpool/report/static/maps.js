"use strict";
// Maps of the sampled images, in two and three dimensions, with the photo of the point under the pointer.

function unpack(packed) {
  return packed.columns.map((column, i) => {
    const steps = packed.steps > 65535 ? new Uint32Array(bytes(column)) : new Uint16Array(bytes(column));
    return Float32Array.from(steps, (v) => packed.low[i] + (v / packed.steps) * packed.span[i]);
  });
}

// Named one by one: some that come by default lead out of the page.
const BUTTONS = { 2: ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"], 3: ["zoom3d", "pan3d", "orbitRotation", "resetCameraDefault3d"] };

class CloudMap {
  constructor(root) {
    this.root = root;
    this.dims = Number(root.dataset.dims);
    this.plot = $(".plot", root);
    this.only = null;
    this.whole = false;
    this.turning = 0;
    for (const name of ["features", "method", "colour"]) this[name] = $(`select[name=${name}]`, root);
  }

  async start() {
    this.plot.append(make("p", "Drawing the map …", { class: "wait" }));
    const index = (await load("charts")).maps.filter((m) => m.dims.includes(this.dims));
    this.features.replaceChildren(...index.map((m) => make("option", m.features, { value: m.file })));
    [this.points] = await Promise.all([load("points"), plotly()]);
    this.points.decoded ??= Object.fromEntries(Object.entries(this.points.models).map(([id, m]) => [id, new Int16Array(bytes(m.clusters))]));
    if (!document.createElement("canvas").getContext("webgl")) {
      const file = this.dims === 3 ? "figures/map_3d.png" : "figures/maps_2d.png";
      this.plot.replaceChildren(make("p", "This browser has no WebGL, which the interactive map needs; here is the picture.", { class: "wait" }), make("img", "", { src: file, alt: "The map as a picture" }));
      return;
    }
    this.features.onchange = () => this.choose();
    this.method.onchange = () => { this.whole = false; this.show(); };
    $(".whole", this.root).onclick = () => { this.whole = !this.whole; this.show(); };
    this.colour.onchange = () => { this.only = null; this.show(); };
    const turn = $(".turn", this.root);
    if (turn) turn.onclick = () => this.turn(turn);
    this.plot.replaceChildren();
    await this.choose();
    redraw.add(() => this.show());
    const peek = (event) => this.peek(event);
    this.plot.on("plotly_hover", peek);
    this.plot.on("plotly_click", peek);
    this.plot.on("plotly_unhover", hidePeek);
    this.plot.addEventListener("mouseleave", hidePeek);
  }

  async choose() {
    this.map = await load(this.features.value);
    const methods = this.map.methods.filter((m) => m.dims === this.dims);
    this.method.replaceChildren(...methods.map((m) => make("option", m.name, { value: m.method })));
    const kept = this.colour.value;
    const models = Object.entries(this.points.models).map(([id, m]) => make("option", m.headline, { value: id }));
    if (this.points.outliers) models.push(make("option", "outliers", { value: "outliers" }));
    this.colour.replaceChildren(...models);
    this.colour.value = kept && kept !== this.own ? kept : this.map.model_id ?? models[0]?.value;
    this.own = this.map.model_id;
    this.only = null;
    this.whole = false;
    await this.show();
  }

  // The sample's positions of what is drawn, and the group (a cluster; for outliers 0 and 1) of each.
  groups() {
    const found = this.map.methods.find((m) => m.method === this.method.value);
    found.xyz ??= unpack(found.packed);
    found.at ??= found.packed.at ? [...new Uint32Array(bytes(found.packed.at))] : Array.from(found.xyz[0], (_, i) => i);
    const which = this.colour.value;
    if (which === "outliers") {
      this.points.flags ??= new Set(new Uint32Array(bytes(this.points.outliers)));
      return [found, found.at.map((i) => (this.points.flags.has(i) ? 1 : 0))];
    }
    const clusters = this.points.decoded[which];
    return [found, clusters ? found.at.map((i) => clusters[i]) : found.at.map(() => -1)];
  }

  colourOf(group) {
    if (this.colour.value !== "outliers") return clusterColour(group, this.colour.value);
    return group ? motorpool.data.charts.alarm : motorpool.data.charts.grey;
  }

  nameOf(group) {
    if (this.colour.value === "outliers") return group ? "outliers" : "all others";
    if (group < 0) return "noise";
    return motorpool.data.charts.titles[this.colour.value]?.[group] ?? `cluster ${group}`;
  }

  async show() {
    const [found, groups] = this.groups();
    this.shown = { found, groups };
    const limit = this.dims === 3 ? Math.min(found.at.length, this.points.most_3d) : found.at.length;
    this.tell(found, limit);
    const photos = this.points.thumbs?.n ?? found.at.length;
    // Points with a photo can be hovered; the others only show where images lie. The sample's order is random.
    const withPhoto = [], without = [];
    for (let i = 0; i < limit; i++) (found.at[i] < photos ? withPhoto : without).push(i);
    this.order = [without, withPhoto];
    const size = this.dims === 3 ? 2.5 : limit > 8000 ? 4 : 6;
    const traces = this.order.map((rows, nth) => {
      const pick = (values) => Float32Array.from(rows, (i) => values[i]);
      const colours = rows.map((i) => (this.only === null || groups[i] === this.only ? this.colourOf(groups[i]) : css("--grid")));
      const common = { mode: "markers", x: pick(found.xyz[0]), y: pick(found.xyz[1]), marker: { color: colours, size, opacity: 0.85, line: { width: 0 } }, hoverinfo: nth ? "none" : "skip" };
      return this.dims === 3 ? { type: "scatter3d", z: pick(found.xyz[2]), ...common } : { type: "scattergl", ...common };
    });
    const config = { responsive: true, displaylogo: false, displayModeBar: true, modeBarButtons: [BUTTONS[this.dims]], scrollZoom: false };
    await Plotly.react(this.plot, traces, this.dims === 3 ? this.layout3(found) : this.layout2(found), config);
    this.legend(groups, limit);
  }

  // A few points may lie so far off that the map leaves them out, unless the reader wants to see it whole.
  tell(found, limit) {
    let outside = 0;
    for (let i = 0; i < limit; i++) outside += (found.frame ?? []).some(([low, high], d) => found.xyz[d][i] < low || found.xyz[d][i] > high);
    const count = (n) => n.toLocaleString("en");
    const left = outside ? `${count(outside)} of ${count(limit)} points lie outside the frame.` : "";
    $(".caption", this.root).textContent = [found.caption, this.whole ? "" : left].filter(Boolean).join(" ");
    const whole = $(".whole", this.root);
    whole.hidden = !outside;
    whole.setAttribute("aria-pressed", String(this.whole));
  }

  range(found, d) { return found.frame && !this.whole ? { range: [...found.frame[d]], autorange: false } : { autorange: true }; }

  // The clusters' numbers, where they are known for the colouring that is shown: colour alone tells nobody enough.
  numbers(found) {
    const known = this.colour.value === found.labelled ? Object.entries(found.labels) : [];
    return known.map(([c, [x, y, z]]) => ({
      x, y, ...(z === undefined ? {} : { z }), text: `<b>${Number(c)}</b>`, showarrow: false, font: { size: 13, color: css("--ink") }, bgcolor: dark.matches ? "rgba(20,23,27,0.72)" : "rgba(255,255,255,0.75)", bordercolor: clusterColour(Number(c), found.labelled), borderwidth: 1.5, borderpad: 2, captureevents: false,
    }));
  }

  layout2(found) {
    const bare = { showgrid: false, zeroline: false, showline: false, showticklabels: false, ticks: "" };
    const annotations = this.numbers(found);
    const uirevision = this.features.value + this.method.value + this.whole;
    return layout({ xaxis: axis("", { ...bare, ...this.range(found, 0) }), yaxis: axis("", { ...bare, ...this.range(found, 1) }), annotations, hovermode: "closest", hoverdistance: 12, dragmode: coarse.matches ? false : "pan", uirevision });
  }

  layout3(found) {
    const side = { showticklabels: false, title: { text: "" }, gridcolor: css("--grid"), zeroline: false, showspikes: false, backgroundcolor: "rgba(0,0,0,0)", linecolor: css("--line") };
    const [xaxis, yaxis, zaxis] = [0, 1, 2].map((d) => ({ ...side, ...this.range(found, d) }));
    // From farther off where the place is narrow: the view's angle is that of its height.
    const off = this.plot.clientWidth < this.plot.clientHeight ? 1.6 : 1;
    return layout({ scene: { xaxis, yaxis, zaxis, annotations: this.numbers(found), aspectmode: "cube", camera: { eye: { x: 1.2 * off, y: 1.2 * off, z: 0.5 * off }, center: { x: 0, y: 0, z: -0.1 } } }, uirevision: this.features.value + this.method.value, margin: { l: 0, r: 0, t: 0, b: 0 } });
  }

  legend(groups, limit) {
    const counts = new Map();
    for (let i = 0; i < limit; i++) counts.set(groups[i], (counts.get(groups[i]) ?? 0) + 1);
    const buttons = [...counts].sort((a, b) => a[0] - b[0]).map(([group, n]) => {
      const button = make("button", "", { type: "button", "aria-pressed": String(this.only === group) });
      const chip = make("span", this.colour.value === "outliers" || group < 0 ? "" : String(group), { class: "chip" });
      chip.style.setProperty("--c", this.colourOf(group));
      button.append(chip, make("span", this.nameOf(group)), make("small", n.toLocaleString("en")));
      button.onclick = async () => {
        this.only = this.only === group ? null : group;
        await this.show();
        $$(".toggles button", this.root).find((b) => b.dataset.group === String(group))?.focus();
      };
      button.dataset.group = group;
      const item = make("li");
      item.append(button);
      return item;
    });
    $(".toggles", this.root).replaceChildren(...buttons);
  }

  peek(event) {
    const point = event.points?.[0];
    if (!point || point.curveNumber !== 1) return;
    const row = this.order[1][point.pointNumber];
    const i = this.shown.found.at[row];
    const mouse = event.event?.touches?.[0] ?? event.event;
    const box = this.plot.getBoundingClientRect();
    showPeek(this.points, i, this.nameOf(this.shown.groups[row]), mouse?.clientX ?? box.left + 20, mouse?.clientY ?? box.top + 20);
  }

  turn(button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    const mine = ++this.turning;
    if (!on) return;
    const began = performance.now();
    const eye = this.plot._fullLayout?.scene?.camera?.eye ?? { x: 1.2, y: 1.2, z: 0.5 };
    const radius = Math.hypot(eye.x, eye.y), start = Math.atan2(eye.y, eye.x);
    const step = async (now) => {
      if (mine !== this.turning) return;
      const angle = start + ((now - began) / 16000) * 2 * Math.PI;
      await Plotly.relayout(this.plot, { "scene.camera.eye": { x: radius * Math.cos(angle), y: radius * Math.sin(angle), z: eye.z } });
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
}

function showPeek(points, i, cluster, x, y) {
  const peek = $("#peek"), photo = $(".photo", peek), thumbs = points.thumbs;
  photo.hidden = !thumbs || i >= thumbs.n;
  if (!photo.hidden) {
    const per = thumbs.per_row ** 2, at = i % per;
    const sheet = thumbs.sheets[Math.floor(i / per)];
    photo.style.backgroundImage = `url("${sheet.file}")`;
    photo.style.backgroundSize = `${sheet.columns * 174}px auto`;
    photo.style.backgroundPosition = `${-(at % thumbs.per_row) * 174}px ${-Math.floor(at / thumbs.per_row) * 174}px`;
  }
  $(".cluster", peek).textContent = cluster;
  $(".path", peek).textContent = points.paths[i] + (points.vehicles[i] ? `, vehicle ${points.vehicles[i]}` : "");
  peek.hidden = false;
  const { offsetWidth: w, offsetHeight: h } = peek;
  peek.style.left = `${Math.max(4, x + 16 + w > innerWidth ? x - 16 - w : x + 16)}px`;
  peek.style.top = `${Math.max(4, Math.min(y - h / 2, innerHeight - h - 4))}px`;
}

function hidePeek() { $("#peek").hidden = true; }
