"use strict";
// New titles for clusters: written into their cards, and handed over as a file that `motorpool titles` takes. A page
// from disk cannot write to the lake, so nothing here does more than that.

const renamed = new Map();

function titlesYaml() {
  const models = new Map();
  for (const { model, cluster, title } of renamed.values()) {
    if (!models.has(model)) models.set(model, []);
    models.get(model).push([cluster, title]);
  }
  // Texts of JSON are texts of YAML too.
  return [...models].map(([model, clusters]) => [
    `${JSON.stringify(model)}:`,
    ...clusters.sort((a, b) => a[0] - b[0]).map(([cluster, title]) => `  ${cluster}: ${JSON.stringify(title)}`),
  ].join("\n")).join("\n") + "\n";
}

function showRenamed() {
  const box = $("#renamed");
  const n = renamed.size;
  box.hidden = !n;
  $(".count", box).textContent = `${n} new ${n === 1 ? "title" : "titles"}.`;
  const text = titlesYaml();
  $("pre.yaml", box).textContent = text;
  $(".copy.yaml", box).dataset.copy = text;
}

function setTitle(card, title) {
  const shown = $(".title", card);
  shown.dataset.made ??= shown.textContent;
  const cluster = Number(card.dataset.cluster), model = card.parentElement.dataset.model;
  if (title && title !== shown.dataset.made) renamed.set(card.id, { model, cluster, title });
  else renamed.delete(card.id);
  shown.textContent = title || shown.dataset.made;
  showRenamed();
}

function startRename(card) {
  const shown = $(".title", card), button = $(".rename", card);
  if ($("input", card)) return;
  const field = make("input", "", { type: "text", maxlength: "200", "aria-label": `Title of cluster ${card.dataset.cluster}` });
  field.value = shown.textContent;
  shown.hidden = button.hidden = true;
  shown.after(field);
  field.focus();
  field.select();
  let open = true;
  const end = (keep) => {
    if (!open) return;
    open = false;
    field.remove();
    shown.hidden = button.hidden = false;
    if (keep) setTitle(card, field.value.trim());
    button.focus({ preventScroll: true });
  };
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    // The button gets the focus, and would take the key for a press.
    event.preventDefault();
    end(event.key === "Enter");
  });
  field.addEventListener("blur", () => end(true));
}

function saveYaml() {
  const link = make("a", "", { href: URL.createObjectURL(new Blob([titlesYaml()], { type: "text/yaml" })), download: "titles.yaml" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

document.addEventListener("DOMContentLoaded", () => {
  const box = $("#renamed");
  if (!box) return;
  for (const button of $$(".card .rename")) button.addEventListener("click", () => startRename(button.closest(".card")));
  $(".save", box).addEventListener("click", saveYaml);
  $(".undo", box).addEventListener("click", () => {
    for (const id of [...renamed.keys()]) setTitle(document.getElementById(id), "");
  });
});
