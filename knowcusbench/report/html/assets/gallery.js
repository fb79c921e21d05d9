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

const links = () => [...document.querySelectorAll(".sample:not([hidden]) figure:not([hidden]) a")];

function show(link) {
  open = link;
  const sample = link.closest(".sample");
  const figure = link.closest("figure");
  const method = [...sample.querySelectorAll("figure")].indexOf(figure);
  const id = sample.id.slice(1);
  const [template, scores] = data.samples[id];
  const about = data.methods[method];
  const number = Number(planned[samples.indexOf(sample)].dataset.knowledge);
  const [phrase, question, answer, aspect] = data.knowledge[number];
  part("title").textContent = `${about.label} · ${words(data.concept)}`;
  const image = part("image");
  image.alt = `${about.label}: ${template.replace("{}", () => about.subjects[number])}`;
  image.onload = () => image.classList.toggle("pixels", image.naturalWidth < 256);
  image.src = link.href;
  part("prompt").textContent = template.replace("{}", () => about.subjects[number]);
  const facts = [
    ["knowledge", phrase], ["question", question], ["answer", answer], ["its kind", words(aspect)],
    ["prompt", words(sample.dataset.prompt)], ["seed", sample.dataset.seed],
    ["noise seed", String(BigInt(`0x${id}`) >> 1n)], ["sample", id],
  ];
  part("facts").replaceChildren(...facts.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
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
  const all = links();
  const place = all.indexOf(link);
  part("place").textContent = `${place + 1} of ${all.length}`;
  part("before").disabled = place <= 0;
  part("after").disabled = place + 1 >= all.length;
  if (!viewer.open) viewer.showModal();
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

document.getElementById("samples").addEventListener("click", (event) => {
  const link = event.target.closest("figure a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(link);
});
part("before").addEventListener("click", () => step(-1));
part("after").addEventListener("click", () => step(1));
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
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
