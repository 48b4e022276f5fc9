// The page of a review: one batch of photos at a time. Every text goes in as text, never as HTML.
"use strict";

const $ = (id) => document.getElementById(id);
const CANNOT_TELL = "cannot be told";
// Keys of values behind 9: letters that no command has.
const LETTERS = "abcdefghijknopqrtvwxy";
const NAME = "motorpool-review-name";
const LONG_PRESS_MS = 500;

// `batch`: the server's; `photos`: its photos with `marked` and `given` (undefined: none, null: cannot be told);
// `take`: the value of all photos without one of their own; `steps`: what can be undone on this page.
const page = {
  who: "", version: "", data: null, batch: null, photos: [], take: undefined, steps: [], at: 0, busy: false, ahead: [],
};

// -- talking to the server ---------------------------------------------------------------------------

async function ask(what, body = {}) {
  let answer;
  try {
    answer = await fetch(`/ask/${what}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ who: page.who, ...body }),
    });
  } catch {
    throw new Error("the server does not answer: is it still running?");
  }
  if (answer.status === 403) throw new Error("the server does not know this page any more: open the address that it printed");
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(found.error || `the server answers with status ${answer.status}`);
  return found;
}

// One request at a time: `what` is for the message where it fails, and the page stays as it is then.
async function during(what, work) {
  if (page.busy) return;
  page.busy = true;
  $("work").setAttribute("aria-busy", "true");
  try {
    show(await work());
  } catch (error) {
    say(`${what}: ${error.message}`, true);
  } finally {
    page.busy = false;
    $("work").removeAttribute("aria-busy");
  }
}

const address = (id, large = false) => `/photo/${id}?v=${page.version}${large ? "&large" : ""}`;

// -- what is shown -----------------------------------------------------------------------------------

function show(data) {
  page.data = data;
  page.batch = data.batch;
  page.steps = [];
  page.at = 0;
  page.take = data.batch && data.batch.value !== null ? data.batch.value : undefined;
  page.photos = data.batch ? data.batch.photos.map((photo) => ({ ...photo, marked: false, given: undefined })) : [];
  // Of answers that were taken back the most frequent one is that of all.
  const again = page.photos.map((photo) => data.batch.given[photo.id]).filter((value) => value !== undefined);
  if (again.length && data.batch.kind !== "single") page.take = most(again);
  for (const photo of page.photos) {
    const given = data.batch.given[photo.id];
    if (given !== undefined && given !== page.take) photo.given = given;
  }
  $("work").dataset.kind = data.batch ? data.batch.kind : "";
  drawGrid();
  drawValues();
  drawGroups();
  drawProgress();
  drawEnd();
  update();
  say(data.note || (data.last ? `Saved: ${data.last.map((l) => `${l.n} ${named(l.value)}`).join(", ")}.` : ""), false);
  page.ahead = data.ahead.map((id) => Object.assign(new Image(), { src: address(id) }));
  focusPhoto(0);
}

function most(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  return [...counts].reduce((best, one) => (one[1] > best[1] ? one : best))[0];
}

const named = (value) => (value === null ? CANNOT_TELL : value);
const valueOf = (photo) => (photo.given !== undefined ? photo.given : page.take);
const isSingle = () => page.batch !== null && page.batch.kind === "single";

function say(text, bad) {
  $("note").textContent = text;
  $("note").classList.toggle("bad", bad);
}

function drawGrid() {
  $("grid").replaceChildren(...page.photos.map((photo, i) => {
    const tile = document.createElement("button");
    tile.type = "button";
    tile.className = "photo";
    const img = document.createElement("img");
    img.alt = "";
    img.draggable = false;
    img.addEventListener("error", () => missing(tile, img));
    img.src = address(photo.id);
    const badge = document.createElement("span");
    badge.className = "badge";
    tile.append(img, badge);
    tile.addEventListener("click", () => pressed(tile, i));
    tile.addEventListener("focus", () => { page.at = i; });
    tile.addEventListener("contextmenu", (event) => event.preventDefault());
    tile.addEventListener("pointerdown", () => holdDown(tile, i));
    for (const end of ["pointerup", "pointercancel", "pointerleave"]) tile.addEventListener(end, () => clearTimeout(tile.timer));
    return tile;
  }));
  $("grid").hidden = !page.photos.length;
  $("grid").parentElement.scrollTop = 0;
}

async function missing(tile, img) {
  const note = document.createElement("span");
  note.className = "gone";
  note.textContent = "this photo cannot be shown";
  img.replaceWith(note);
  const answer = await fetch(img.src).catch(() => null);
  if (answer && answer.status === 404) note.textContent = `this photo cannot be shown: ${await answer.text()}`;
}

function holdDown(tile, i) {
  tile.longPress = false;
  tile.timer = setTimeout(() => { tile.longPress = true; look(i); }, LONG_PRESS_MS);
}

function pressed(tile, i) {
  if (tile.longPress) { tile.longPress = false; return; }
  page.at = i;
  mark(i);
}

function drawValues() {
  const keys = keyed();
  const buttons = page.data.values.map((value, i) => valueButton(value, value, keys[i] || ""));
  buttons.push(valueButton(null, CANNOT_TELL, "0"));
  const other = document.createElement("button");
  other.type = "button";
  label(other, page.data.open ? "another value …" : "find a value …", "/");
  other.addEventListener("click", (event) => { openOther(); back(event); });
  buttons.push(other);
  $("values").replaceChildren(...buttons);
}

function valueButton(value, text, key) {
  const button = document.createElement("button");
  button.type = "button";
  button.value_ = value;
  label(button, text, key);
  button.addEventListener("click", (event) => { give(value); back(event); });
  return button;
}

function label(button, text, key) {
  const span = document.createElement("span");
  span.textContent = text;
  button.replaceChildren(span);
  if (key) {
    const kbd = document.createElement("kbd");
    kbd.textContent = key;
    button.append(kbd);
  }
}

const keyed = () => page.data.values.map((_, i) => (i < 9 ? String(i + 1) : LETTERS[i - 9]));

function drawGroups() {
  const options = [new Option("whatever comes next", "-1")];
  for (const group of page.data.groups) options.push(new Option(`${group.title} (${group.left.toLocaleString("en")} left)`, String(group.number)));
  $("groups").replaceChildren(...options);
  $("groups").value = String(page.data.wanted);
  if ($("groups").selectedIndex < 0) $("groups").value = "-1";
}

function drawProgress() {
  const { done, total, seconds_left: left, others } = page.data.progress;
  const parts = [`${done.toLocaleString("en")} of ${total.toLocaleString("en")}`];
  if (left !== null && done < total) parts.push(`about ${duration(left)} left`);
  if (others.length) parts.push(`with ${others.join(", ")}`);
  $("progress").textContent = parts.join(", ");
  $("bar").style.width = `${total ? (100 * done) / total : 100}%`;
}

function duration(seconds) {
  const minutes = Math.max(1, Math.round(seconds / 60));
  if (minutes < 90) return minutes === 1 ? "1 minute" : `${minutes} minutes`;
  const hours = Math.round(minutes / 60);
  return hours < 48 ? `${hours} hours` : `${Math.round(hours / 24)} days`;
}

function drawEnd() {
  const { done, total, others } = page.data.progress;
  $("end").hidden = page.batch !== null;
  if (page.batch !== null) return;
  const finished = done >= total;
  $("end-title").textContent = finished ? "All photos are looked at" : "No photo is left for you";
  $("again").hidden = finished;
  $("end-text").textContent = finished
    ? `${total.toLocaleString("en")} photos have their answers. Ctrl-C where the review was started imports them.`
    : `The last ${(total - done).toLocaleString("en")} lie before ${others.join(", ") || "somebody else"}.`;
}

// What marks and values change.
function update() {
  const { batch } = page;
  [...$("grid").children].forEach((tile, i) => {
    const photo = page.photos[i];
    const own = photo.given !== undefined;
    tile.setAttribute("aria-pressed", String(photo.marked));
    tile.toggleAttribute("data-given", own);
    tile.querySelector(".badge").textContent = own ? named(photo.given) : "";
    const value = valueOf(photo);
    tile.setAttribute("aria-label", `Photo ${i + 1}: ${value === undefined ? "no value yet" : named(value)}`);
    tile.title = [photo.path, photo.note].filter(Boolean).join("\n");
  });
  for (const button of $("values").children) {
    if ("value_" in button) button.setAttribute("aria-pressed", String(batch !== null && button.value_ === page.take));
    button.disabled = batch === null;
  }
  const chosen = $("values").querySelector("[aria-pressed=true]");
  if (chosen) $("values").scrollLeft = chosen.offsetLeft - $("values").offsetLeft - 40;
  $("title").textContent = question();
  $("kind").textContent = page.data.title;
  label($("take"), takeText(), "Enter");
  $("take").disabled = batch === null;
  $("later").disabled = batch === null;
  $("undo").disabled = !page.steps.length && !page.data.last;
  $("split").hidden = batch === null || batch.kind !== "cluster";
}

function question() {
  if (page.batch === null) return page.data.attribute;
  if (isSingle()) return `${page.data.attribute} of each of these?`;
  const all = page.take === undefined ? "what are these?" : page.take === null ? `${CANNOT_TELL}?` : `all ${page.take}?`;
  return page.batch.kind === "cluster" ? `${page.batch.title}: ${all}` : `${page.data.attribute}: ${all}`;
}

function takeText() {
  if (page.batch === null) return "Take all";
  const counts = new Map();
  for (const photo of page.photos) {
    const value = valueOf(photo);
    if (value !== undefined && !photo.marked) counts.set(value, (counts.get(value) || 0) + 1);
  }
  if (!isSingle() && !counts.size) return "Give it a value";
  const n = page.photos.filter((photo) => valueOf(photo) !== undefined).length;
  if (isSingle() || n < page.photos.length) return `Save ${n} of ${page.photos.length}`;
  if (counts.size === 1) return `Take all as ${named([...counts.keys()][0])}`;
  return `Save ${[...counts].sort((a, b) => b[1] - a[1]).map(([value, n]) => `${n} ${named(value)}`).join(", ")}`;
}

function focusPhoto(i) {
  const tiles = $("grid").children;
  if (!tiles.length || document.querySelector("dialog[open]")) return;
  page.at = Math.min(Math.max(i, 0), tiles.length - 1);
  [...tiles].forEach((tile, n) => { tile.tabIndex = n === page.at ? 0 : -1; });
  tiles[page.at].focus({ preventScroll: false });
}

// A click with the mouse leaves the keyboard where the photos are.
function back(event) {
  if (event.detail > 0) focusPhoto(page.at);
}

// -- what a person does ------------------------------------------------------------------------------

function step() {
  page.steps.push({ take: page.take, photos: page.photos.map(({ marked, given }) => ({ marked, given })) });
}

function mark(i) {
  step();
  page.photos[i].marked = !page.photos[i].marked;
  update();
}

function markAll() {
  step();
  const all = page.photos.every((photo) => photo.marked);
  for (const photo of page.photos) photo.marked = !all;
  update();
}

function give(value) {
  if (page.batch === null || page.busy) return;
  step();
  const marked = page.photos.filter((photo) => photo.marked);
  if (marked.length) {
    for (const photo of marked) {
      photo.given = value === page.take ? undefined : value;
      photo.marked = false;
    }
  } else if (isSingle()) {
    page.photos[page.at].given = value;
    const next = page.photos.findIndex((photo, i) => i > page.at && photo.given === undefined);
    if (next >= 0) focusPhoto(next);
  } else {
    page.take = value;
    for (const photo of page.photos) if (photo.given === value) photo.given = undefined;
  }
  say("", false);
  update();
}

function takeAll() {
  if (page.batch === null) return;
  const marked = page.photos.filter((photo) => photo.marked).length;
  const answers = page.photos.map((photo) => ({ id: photo.id, value: valueOf(photo) })).filter((a) => a.value !== undefined);
  if (marked) {
    say(`${marked} marked ${marked === 1 ? "photo has" : "photos have"} no value yet: give ${marked === 1 ? "it" : "them"} one, or “${CANNOT_TELL}”`, true);
  } else if (!answers.length) {
    say(`Nothing has a value yet: give it one, or “${CANNOT_TELL}”`, true);
  } else {
    const take = page.take === undefined ? null : page.take;
    during("Not saved, and nothing is lost: press Enter to try again", () => ask("save", { batch: page.batch.id, answers, take }));
  }
}

function undo() {
  const last = page.steps.pop();
  if (last === undefined) {
    during("Not taken back", () => ask("undo"));
    return;
  }
  page.take = last.take;
  last.photos.forEach((was, i) => Object.assign(page.photos[i], was));
  say("", false);
  update();
}

function look(i) {
  const photo = page.photos[i];
  $("large-photo").src = address(photo.id, true);
  $("large-text").textContent = [photo.path, photo.note].filter(Boolean).join(" · ");
  $("large").showModal();
}

function openOther() {
  $("text").value = "";
  $("wrong").textContent = "";
  $("known").replaceChildren(...page.data.values.map((value) => new Option(value)));
  $("other").showModal();
}

function giveOther(event) {
  const text = $("text").value.trim();
  const value = page.data.values.find((v) => v === text) || page.data.values.find((v) => v.toLowerCase() === text.toLowerCase());
  if (value !== undefined) {
    give(value);
  } else if (!page.data.open || !text || text === "?") {
    event.preventDefault();
    $("wrong").textContent = page.data.open ? "A value is a text; for ? use 0" : `This is no value of ${page.data.attribute}`;
  } else {
    page.data.values.push(text);
    drawValues();
    give(text);
  }
}

function move(event) {
  const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  const to = page.at + by;
  if (to >= 0 && to < page.photos.length) focusPhoto(to);
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("work").hidden) return;
  if (event.key === "z" && $("large").open) { $("large").close(); return; }
  const own = event.target.closest("input, select, dialog");
  const other = event.target.closest("button:not(.photo)");
  if (own || document.querySelector("dialog[open]") || page.data === null) return;
  if (other && (event.key === "Enter" || event.key === " ")) return;
  const at = keyed().indexOf(event.key);
  const commands = {
    Enter: takeAll, " ": () => page.photos.length && mark(page.at), u: undo, m: markAll, z: () => page.photos.length && look(page.at),
    l: () => $("later").disabled || $("later").click(), s: () => $("split").hidden || $("split").click(),
    "/": openOther, "?": () => $("help-button").click(), 0: () => give(null),
  };
  if (event.key.startsWith("Arrow")) move(event);
  else if (at >= 0) give(page.data.values[at]);
  else if (event.key in commands && (event.key !== "/" || page.batch !== null)) {
    // A key that is held down must not save batches that nobody has seen.
    if (!event.repeat) commands[event.key]();
  } else return;
  event.preventDefault();
}

// -- beginning ---------------------------------------------------------------------------------------

async function enter(name) {
  page.who = name;
  $("enter").hidden = true;
  $("work").hidden = false;
  $("leave").textContent = `You are ${name}: another name`;
  await during("The review cannot begin", () => ask("look"));
  if (page.data === null) {
    $("work").hidden = true;
    $("enter").hidden = false;
  } else {
    localStorage.setItem(NAME, name);
  }
}

async function begin() {
  // The token is in a cookie now, and need not stay where others can read it.
  history.replaceState(null, "", "/");
  const about = await (await fetch("/about")).json();
  page.version = about.version;
  $("name").value = about.annotator;
  $("enter").addEventListener("submit", (event) => { event.preventDefault(); enter($("name").value.trim()); });
  $("take").addEventListener("click", (event) => { takeAll(); back(event); });
  $("undo").addEventListener("click", (event) => { undo(); back(event); });
  $("later").addEventListener("click", () => during("Not put back", () => ask("later")));
  $("split").addEventListener("click", () => during("Not split", () => ask("split")));
  $("again").addEventListener("click", () => during("Not looked up", () => ask("look")));
  $("groups").addEventListener("change", () => during("Not chosen", () => ask("look", { group: Number($("groups").value) })));
  $("help-button").addEventListener("click", () => $("help").showModal());
  $("give").addEventListener("click", giveOther);
  $("help").addEventListener("close", () => { if ($("help").returnValue === "leave") { localStorage.removeItem(NAME); location.reload(); } });
  for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("close", () => focusPhoto(page.at));
  document.addEventListener("keydown", key);
  const known = localStorage.getItem(NAME);
  if (known) await enter(known);
  else { $("enter").hidden = false; $("name").select(); }
}

begin();
