"use strict";
// The report's behaviour: sorting and filtering the table, tabs, figures drawn when they come into view, and maps with
// photos. Text from the lake only ever enters the page as text. Data files call motorpool.put; nothing is fetched.

const motorpool = (window.motorpool = { data: {}, put(name, value) { this.data[name] = value; } });
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

function make(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// -- files ------------------------------------------------------------------------------------------------------------

const scripts = {};
function script(file) {
  scripts[file] ??= new Promise((resolve, reject) => {
    const node = make("script", "", { src: file });
    node.onload = resolve;
    node.onerror = () => reject(new Error(`${file} could not be loaded: keep it beside index.html`));
    document.head.append(node);
  });
  return scripts[file];
}

async function load(name) {
  if (!(name in motorpool.data)) await script(`data/${name}.js`);
  return motorpool.data[name];
}

const plotly = () => script("assets/plotly.min.js");

function bytes(base64) {
  const text = atob(base64);
  const out = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
  return out.buffer;
}

// -- the table --------------------------------------------------------------------------------------------------------

const FIRST = 25;

function startBoard() {
  const table = $("#board"), form = $("#filters"), more = $("#more");
  if (!table) return;
  const body = $("tbody", table), heads = $$("th", table);
  let rows = $$("tr", body), all = false;
  const texts = new Map(rows.map((row) => [row, `${row.textContent} ${row.dataset.id}`.toLowerCase()]));

  function update() {
    const want = new FormData(form);
    const text = want.get("text").trim().toLowerCase(), low = want.get("low"), high = want.get("high");
    let found = 0;
    for (const row of rows) {
      const d = row.dataset;
      const fits = (!text || texts.get(row).includes(text))
        && (!want.get("features") || d.features === want.get("features"))
        && (!want.get("algorithm") || d.algorithm === want.get("algorithm"))
        && (low === "" || Number(d.clusters) >= Number(low)) && (high === "" || Number(d.clusters) <= Number(high))
        && (!want.get("ranked") || d.ranked === "1");
      found += fits;
      row.hidden = !fits || (!all && found > FIRST);
    }
    $("#shown").textContent = `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")} models`;
    more.hidden = found <= FIRST;
    more.textContent = all ? `Show the first ${FIRST}` : `Show all ${found.toLocaleString("en")}`;
  }

  function sort(head) {
    const column = heads.indexOf(head), up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((h) => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const numeric = head.dataset.kind === "number";
    const key = (row) => (numeric ? row.cells[column].dataset.v : row.cells[column].textContent);
    rows = rows.map((row) => [key(row), row]).sort(([a], [b]) => {
      // What has no value comes last either way.
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
      return (numeric ? a - b : a.localeCompare(b)) * (up ? 1 : -1);
    }).map(([, row]) => row);
    body.append(...rows);
    update();
  }

  heads.forEach((head) => $("button", head).addEventListener("click", () => sort(head)));
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { all = !all; update(); });
  update();
}

function openTab(group, name) {
  const buttons = $$("button", group);
  for (const button of buttons) {
    const on = button.dataset.show === name;
    button.setAttribute("aria-pressed", String(on));
    const tab = $(`[data-tab="${CSS.escape(button.dataset.show)}"]`);
    if (tab) tab.hidden = !on;
  }
}

// Cards, photos and charts take their room as they come into view, which moves what lies below: go there again until
// it stays, unless the reader moves on.
function settle(target) {
  const moved = new AbortController();
  for (const name of ["wheel", "touchstart", "pointerdown", "keydown", "hashchange"]) {
    addEventListener(name, () => moved.abort(), { once: true, passive: true, signal: moved.signal });
  }
  // Counted, since a chart that is being drawn can keep the page busy for seconds.
  let height = 0, unchanged = 0;
  const again = () => {
    if (moved.signal.aborted) return;
    target.scrollIntoView({ behavior: "instant" });
    const now = document.documentElement.scrollHeight;
    unchanged = now === height ? unchanged + 1 : 0;
    height = now;
    if (unchanged < 20) setTimeout(again, 100);
    else moved.abort();
  };
  again();
}

function startTabs() {
  for (const group of $$("[data-tabs]")) {
    group.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) openTab(group, button.dataset.show);
    });
  }
  // A link to a card behind another tab opens that tab first.
  const follow = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    const tab = target && target.closest("[data-tab]");
    if (tab && tab.hidden) {
      const button = $(`[data-show="${CSS.escape(tab.dataset.tab)}"]`);
      openTab(button.parentElement, tab.dataset.tab);
    }
    if (target) settle(target);
  };
  addEventListener("hashchange", follow);
  follow();
}

const seen = new IntersectionObserver(
  (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => { seen.unobserve(e.target); e.target.onseen(); }),
  { rootMargin: "400px" },
);
function whenSeen(node, act) {
  node.onseen = () => act().catch((error) => node.append(make("p", error.message, { class: "missing" })));
  seen.observe(node);
}

// -- copying ----------------------------------------------------------------------------------------------------------

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages from disk may not, by this newer way.
    const field = make("textarea", "", { style: "position: fixed; left: -999rem" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (!done) throw new Error("this browser does not let a page copy");
  }
}

async function copyFrom(button) {
  const before = (button.dataset.label ??= button.textContent);
  try {
    await copyText(button.dataset.copy);
    button.textContent = "Copied";
    button.classList.add("done");
  } catch (error) {
    button.textContent = `Not copied: ${error.message}`;
  }
  setTimeout(() => { button.textContent = before; button.classList.remove("done"); }, 2000);
}

document.addEventListener("DOMContentLoaded", () => {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) copyFrom(button);
  });
  startBoard();
  startTabs();
  for (const figure of $$(".chart")) whenSeen(figure, () => drawChart(figure));
  for (const root of $$(".map")) whenSeen(root, () => (root.map = new CloudMap(root)).start());
  addEventListener("scroll", hidePeek, { passive: true });
});
