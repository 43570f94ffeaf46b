"use strict";
// Beside the map: the legend, the list of what is shown, and the dialogue that is read. Data goes in as text only.

const PAGE = 100; // rows of the list at a time
let listed = [];

function at(id) {
  return document.getElementById(id);
}

function element(name, content = "", properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(content);
  return made;
}

function drawLegend() {
  const { name, labels } = colouring();
  at("legend-title").textContent = name;
  at("legend").replaceChildren(
    ...labels.map((label, n) => {
      const on = element("input", "", { type: "checkbox", checked: !state.off.has(n) });
      on.addEventListener("change", () => {
        on.checked ? state.off.delete(n) : state.off.add(n);
        refresh();
      });
      const colour = element("i");
      colour.style.background = colourOf(n);
      const row = element("label", on);
      row.append(colour, element("span", label), element("output", ofLabel[n].toLocaleString("en")));
      return element("li", row);
    }),
  );
}

function drawList() {
  listed = shownIndices();
  at("list").replaceChildren();
  lengthenList();
}

function lengthenList() {
  const rows = at("list").childElementCount;
  for (const index of listed.slice(rows, rows + PAGE)) {
    const button = element("button", map.openings[index].trim() || map.ids[index], { type: "button" });
    button.addEventListener("click", () => openDialogue(index));
    at("list").append(element("li", button));
  }
  at("more").hidden = at("list").childElementCount >= listed.length;
}

function drawStatus(searched) {
  const all = count.toLocaleString("en");
  const sample = map.read > count ? ` (a random sample of ${map.read.toLocaleString("en")})` : "";
  const number = shown.reduce((sum, one) => sum + one, 0);
  const busy = searched < 1 ? `searching ${Math.round(100 * searched)}%, ` : "";
  at("status").textContent = `${busy}${number.toLocaleString("en")} of ${all} dialogues${sample}`;
  at("clear").disabled = !state.region;
}

// The text with the words that were searched for marked.
function marked(text) {
  const fragment = document.createDocumentFragment();
  const lower = text.toLowerCase();
  let done = 0;
  while (lower.length === text.length && done < text.length) {
    let from = -1;
    let term = "";
    for (const one of state.terms) {
      const place = lower.indexOf(one, done);
      if (place >= 0 && (from < 0 || place < from)) [from, term] = [place, one];
    }
    if (from < 0) break;
    fragment.append(text.slice(done, from), element("mark", text.slice(from, from + term.length)));
    done = from + term.length;
  }
  fragment.append(text.slice(done));
  return fragment;
}

function drawDialogue(index, { messages, meta }) {
  at("dialogue-id").textContent = map.ids[index];
  at("dialogue-place").textContent = `${map.files[map.file[index]]}:${map.lines[index]}`;
  at("dialogue-meta").replaceChildren(
    ...Object.entries(meta).flatMap(([name, value]) => [
      element("dt", name),
      element("dd", typeof value === "string" ? value : JSON.stringify(value)),
    ]),
  );
  at("messages").replaceChildren(
    ...messages.map(([role, text]) => {
      const article = element("article", element("h3", role), { className: role });
      article.append(element("p", marked(text)));
      return article;
    }),
  );
}

async function openDialogue(index) {
  state.opened = index;
  drawChart();
  let row;
  try {
    row = await dialogueAt(index);
  } catch (error) {
    row = { messages: [["system", `This dialogue cannot be read: ${error.message}`]], meta: {} };
  }
  if (state.opened !== index) return;
  drawDialogue(index, row);
  at("browse").hidden = true;
  at("dialogue").hidden = false;
  at("dialogue").parentElement.scrollTop = 0;
  at("dialogue").focus({ preventScroll: true });
}

function closeDialogue() {
  const index = state.opened;
  state.opened = -1;
  at("dialogue").hidden = true;
  at("browse").hidden = false;
  const row = at("list").children[listed.indexOf(index)];
  (row ? row.firstChild : at("search")).focus();
  drawChart();
}

// The next of the list, or with -1 the one before.
function step(by) {
  const place = listed.indexOf(state.opened);
  const next = listed[place < 0 ? 0 : place + by];
  if (next !== undefined) openDialogue(next);
}
