// Filters of a concept's samples, and the viewer that opens a picture with all that is known of it.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const samples = [...document.querySelectorAll(".sample")];
const planned = samples.map((sample) => sample.parentElement);
const form = document.getElementById("filters");
const words = (text) => text.replaceAll("_", " ");

function options(select, values, title = words) {
  for (const value of values) select.append(new Option(title(String(value)), value));
}

const columns = new Map(Object.values(data.columns).flat().map((column) => [column[0], column]));
options(form.elements.prompt, new Set(samples.map((sample) => sample.dataset.prompt)));
options(form.elements.seed, new Set(samples.map((sample) => sample.dataset.seed)));
options(form.elements.metric, columns.keys(), (key) => columns.get(key)[1]);
form.hidden = false;

// The score of a method's picture in a column; null if the column is not of its task.
function score(sample, method, key) {
  const place = data.columns[sample.dataset.task].findIndex((column) => column[0] === key);
  return place < 0 ? null : data.samples[sample.id.slice(1)][1][method][place];
}

// A sample whose task does not have the chosen column shows the same metric of its own task, or its first.
function columnOf(sample, key) {
  const own = data.columns[sample.dataset.task];
  const metric = key.slice(key.indexOf("_") + 1);
  return own.find((column) => column[0] === key) ?? own.find((column) => column[0].endsWith(`_${metric}`)) ?? own[0];
}

function shown(value, column) {
  return value === null ? "–" : value.toFixed(column[2]);
}

function update() {
  const wanted = form.elements;
  const methods = new Set([...form.querySelectorAll("[name=method]:checked")].map((box) => Number(box.value)));
  const low = wanted.low.value === "" ? -Infinity : Number(wanted.low.value);
  const high = wanted.high.value === "" ? Infinity : Number(wanted.high.value);
  const ranged = low > -Infinity || high < Infinity;
  const key = wanted.metric.value;
  const best = new Map();
  let count = 0;
  for (const [place, sample] of samples.entries()) {
    const fits =
      (wanted.knowledge.value === "" || wanted.knowledge.value === planned[place].dataset.knowledge) &&
      (wanted.aspect.value === "" || wanted.aspect.value === planned[place].dataset.aspect) &&
      (wanted.prompt.value === "" || wanted.prompt.value === sample.dataset.prompt) &&
      (wanted.seed.value === "" || wanted.seed.value === sample.dataset.seed);
    const column = columnOf(sample, key);
    let inside = false;
    for (const [method, figure] of [...sample.querySelectorAll("figure")].entries()) {
      const value = column ? score(sample, method, column[0]) : null;
      const within = !ranged || (column[0] === key && value !== null && value >= low && value <= high);
      figure.hidden = !methods.has(method);
      figure.classList.toggle("out", !within);
      figure.querySelector("b").textContent = column ? shown(value, column) : "";
      if (methods.has(method) && within) {
        inside = true;
        if (column && column[0] === key && value !== null) best.set(sample, [...(best.get(sample) ?? []), value]);
      }
    }
    sample.hidden = !(fits && inside);
    count += !sample.hidden;
  }
  arrange(wanted.order.value, best, columns.get(key));
  document.getElementById("count").textContent = `${count} of ${samples.length} samples`;
}

// In order of a score, samples leave the sections of their knowledge items; planned order puts them back.
function arrange(order, best, column) {
  const sections = new Set(planned);
  if (order === "") {
    for (const [place, sample] of samples.entries()) planned[place].append(sample);
  } else {
    const descending = (order === "best") === (column[3] !== false);
    const value = (sample) => {
      const values = best.get(sample) ?? [];
      return values.length === 0 ? -Infinity : descending ? Math.max(...values) : -Math.min(...values);
    };
    const sorted = [...samples].sort((a, b) => value(b) - value(a) || 0);
    document.getElementById("samples").append(...sorted);
  }
  for (const section of sections) {
    section.hidden = order !== "" || ![...section.querySelectorAll(".sample")].some((sample) => !sample.hidden);
  }
}

form.addEventListener("input", update);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(update));
update();

// The viewer.
const viewer = document.getElementById("viewer");
const part = (name) => document.getElementById(`viewer-${name}`);
let open = null;

let layer = null;

const PICTURES = "figure:not([hidden]) a:not(.absent)";
const around = () => (open.closest(".references") ? ".references" : ".sample:not([hidden])");
const links = () => [...document.querySelectorAll(`${around()} ${PICTURES}`)];

function show(link) {
  open = link;
  const image = part("image");
  const found = link.closest(".references") ? showReference(link) : showSample(link);
  image.onload = () => image.classList.toggle("pixels", image.naturalWidth < 256);
  image.src = link.href;
  showMasks(found);
  const all = links();
  const place = all.indexOf(link);
  part("place").textContent = `${place + 1} of ${all.length}`;
  part("before").disabled = place <= 0;
  part("after").disabled = place + 1 >= all.length;
  if (!viewer.open) viewer.showModal();
}

function facts(pairs) {
  part("facts").replaceChildren(...pairs.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
}

// What is known of a picture goes into the viewer; returns what is known of its masks.
function showReference(link) {
  const figure = link.closest("figure");
  const name = figure.querySelector("figcaption").textContent;
  part("title").textContent = `${words(data.concept)} · reference`;
  part("image").alt = `reference ${name}`;
  part("prompt").hidden = true;
  facts([["file", name]]);
  part("table").hidden = part("redraw").hidden = true;
  return data.references[Number(figure.dataset.reference)];
}

function showSample(link) {
  const sample = link.closest(".sample");
  const figure = link.closest("figure");
  const method = [...sample.querySelectorAll("figure")].indexOf(figure);
  const id = sample.id.slice(1);
  const [template, scores, masks] = data.samples[id];
  const about = data.methods[method];
  const number = Number(planned[samples.indexOf(sample)].dataset.knowledge);
  const [phrase, question, answer, aspect] = data.knowledge[number];
  part("title").textContent = `${about.label} · ${words(data.concept)}`;
  part("image").alt = `${about.label}: ${template.replace("{}", () => about.subjects[number])}`;
  part("prompt").hidden = false;
  part("prompt").textContent = template.replace("{}", () => about.subjects[number]);
  facts([
    ["knowledge", phrase], ["question", question], ["answer", answer], ["knowledge aspect", words(aspect)],
    ["prompt aspect", words(sample.dataset.prompt)], ["seed", sample.dataset.seed],
    ["noise seed", String(BigInt(`0x${id}`) >> 1n)], ["sample", id],
  ]);
  part("table").hidden = false;
  part("scores").replaceChildren(
    ...data.columns[sample.dataset.task].map((column, place) => {
      const row = document.createElement("tr");
      const head = element("th", column[1]);
      head.scope = "row";
      head.className = "label";
      row.append(head, element("td", shown(scores[method][place], column)));
      return row;
    }),
  );
  part("redraw").hidden = about.command.length === 0;
  part("command").textContent = about.command.join(id);
  return masks?.[method];
}

// The masks of the picture that is open: by metric its file, the share that it covers in percent, and a note.
let masks = [];

function showMasks(found) {
  masks = data.masks.map((_, place) => found?.[place] ?? null);
  part("masks").replaceChildren(
    ...masks.flatMap((mask, place) => {
      const title = data.masks[place][0];
      if (mask === null) return [];
      const [file, covered, note] = mask;
      const share = covered === null ? "a mask" : `the mask covers ${covered.toFixed(1)}% of the picture`;
      const said = element("p", `${title}: ${share}${note && `; ${note}`}`);
      if (!file) said.append("; it was not kept: ", Object.assign(element("a", "how to get it"), { href: "index.html#masks" }));
      return [said];
    }),
  );
  lay();
}

// Shows the chosen layer, if the picture has it.
function lay() {
  const file = layer === null ? "" : masks[layer]?.[0];
  part("mask").hidden = !file;
  if (file) part("mask").src = `${data.masks[layer][1]}/${file}`;
  const toggle = part("toggle");
  toggle.hidden = data.masks.length === 0;
  toggle.disabled = !masks.some((mask) => mask?.[0]);
  toggle.setAttribute("aria-pressed", String(Boolean(file)));
  toggle.textContent = file && data.masks.length > 1 ? `Mask: ${data.masks[layer][0]}` : "Mask";
}

// From one layer that the picture has to the next, and then to none.
function turn() {
  const next = masks.findIndex((mask, place) => mask?.[0] && place > (layer ?? -1));
  layer = next < 0 ? null : next;
  lay();
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  if (name === "dd") made.dir = "auto";
  return made;
}

function step(by) {
  const all = links();
  const next = all[all.indexOf(open) + by];
  if (next) show(next);
}

document.getElementById("main").addEventListener("click", (event) => {
  const link = event.target.closest("figure a:not(.absent)");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link);
});
part("before").addEventListener("click", () => step(-1));
part("after").addEventListener("click", () => step(1));
part("toggle").addEventListener("click", turn);
// Of the document: a button that was pressed and is disabled since gets no keys.
document.addEventListener("keydown", (event) => {
  if (!viewer.open) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
  if (event.key === "m" && !event.ctrlKey && !event.metaKey && !event.altKey) turn();
});
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("close", () => { open?.scrollIntoView({ block: "nearest" }); open?.focus({ preventScroll: true }); });
part("copy").addEventListener("click", async () => {
  const command = part("command");
  try {
    await navigator.clipboard.writeText(command.textContent);
    part("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(command);
  }
});
