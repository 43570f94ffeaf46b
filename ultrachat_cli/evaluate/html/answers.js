"use strict";
// Shows the rows that match the filters, a hundred at a time; a row's texts are put in place when it is opened.
// Whatever comes from the data is set as text, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const STEP = 100;
const OUTCOMES = { win: "win", draw: "draw", loss: "loss", none: "no verdict" };
let matching = [];
let shown = 0;

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function answer(name, text, kind) {
  const side = element("section", undefined, kind);
  side.append(element("h3", `${name} (${[...text].length.toLocaleString("en")} characters)`), element("pre", text));
  return side;
}

function verdict(one) {
  const words = [OUTCOMES[one.outcome]];
  if (one.preference !== null) words.push(`preference ${one.preference.toFixed(3)}`);
  if (one.scores) {
    const [reference, model] = one.scores.map((score) => (score === null ? "-" : score));
    words.push(`scores: model ${model}, reference ${reference}`);
  }
  if (one.note) words.push(one.note);
  if (one.switched !== null) words.push(one.switched ? "model shown first" : "reference shown first");
  const box = element("section", undefined, "verdict");
  box.append(element("p", words.join("; ")));
  if (one.raw) box.append(element("pre", one.raw));
  return box;
}

function fill(box, row) {
  const answers = element("div", undefined, "answers");
  answers.append(answer(data.model, row.model, "model"), answer(data.reference, row.reference, "reference"));
  box.append(element("pre", row.instruction, "instruction"), answers, ...row.verdicts.map(verdict));
}

function line(row) {
  const box = element("details");
  const head = element("summary");
  const about = [row.category, row.difficulty && `difficulty ${row.difficulty}`].filter(Boolean).join(", ");
  head.append(element("b", OUTCOMES[row.outcome], row.outcome), " ", element("span", row.instruction.slice(0, 160)));
  if (about) head.append(" ", element("small", about));
  box.append(head);
  box.addEventListener("toggle", () => { if (box.open && box.childElementCount === 1) fill(box, row); });
  return box;
}

function more() {
  at("list").append(...matching.slice(shown, shown + STEP).map(line));
  shown = Math.min(shown + STEP, matching.length);
  at("more").hidden = shown >= matching.length;
}

function filter() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const category = at("category").value;
  const outcome = at("outcome").value;
  matching = data.rows.filter((row) => (category === "*" || row.category === category.slice(1))
    && (outcome === "*" || row.outcome === outcome)
    && words.every((word) => row.text.includes(word)));
  at("count").textContent = `${matching.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")}`;
  at("list").replaceChildren();
  shown = 0;
  more();
}

for (const row of data.rows) {
  const said = row.verdicts.map((one) => one.raw);
  row.text = [row.instruction, row.model, row.reference, ...said].join("\n").toLowerCase();
}
for (const name of new Set(data.rows.map((row) => row.category))) {
  const option = element("option", name || "(none)");
  option.value = `=${name}`; // so that no name can be mistaken for "all"
  at("category").append(option);
}
for (const id of ["search", "category", "outcome"]) at(id).addEventListener("input", filter);
at("search").form.addEventListener("submit", (event) => event.preventDefault());
at("more").addEventListener("click", more);
filter();
document.body.dataset.drawn = "yes";
