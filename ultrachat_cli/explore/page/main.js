"use strict";
// What the controls do.

let searches = 0;

function refresh(searched = 1) {
  decide();
  drawChart();
  drawLegend();
  drawList();
  drawStatus(searched);
}

async function searchFor(query) {
  const mine = ++searches;
  const matches = await search(query, (share) => {
    if (mine !== searches) return false;
    if (share < 1) drawStatus(share);
    return true;
  });
  if (mine !== searches) return;
  [state.matches, state.terms] = [matches, termsOf(query)];
  refresh();
}

function setRegion(region) {
  state.region = region;
  refresh();
}

function pressed(type) {
  draw(type);
  at("lasso").setAttribute("aria-pressed", type === "polygon");
  at("rectangle").setAttribute("aria-pressed", type === "rect");
}

function idsAsText() {
  return shownIndices().map((i) => `${map.ids[i]}\n`).join("");
}

function idsAsLines() {
  const rows = shownIndices().map((i) => ({ id: map.ids[i], file: map.files[map.file[i]], line: map.lines[i] }));
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}

function download(name, text) {
  const link = element("a", "", { href: URL.createObjectURL(new Blob([text])), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", text); // where the page may not use the clipboard by itself
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  at("copy").textContent = "Copied";
  setTimeout(() => (at("copy").textContent = "Copy ids"), 1500);
}

function hover({ offsetX, offsetY }) {
  const index = brush ? -1 : nearest(offsetX, offsetY);
  const hint = at("hint");
  hint.hidden = index < 0;
  box.firstElementChild.style.cursor = index < 0 ? "" : "pointer";
  if (index < 0) return;
  const { labels, codes } = colouring();
  hint.textContent = `${labels[codes[index]]}: ${map.openings[index]}`;
  hint.style.left = `${Math.max(0, Math.min(offsetX + 14, box.clientWidth - hint.offsetWidth))}px`;
  hint.style.top = `${Math.max(0, Math.min(offsetY + 14, box.clientHeight - hint.offsetHeight))}px`;
}

function wire() {
  const on = (id, event, act) => at(id).addEventListener(event, act);
  let waiting;
  on("search", "input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => searchFor(at("search").value), 200);
  });
  on("colouring", "change", () => {
    state.colouring = at("colouring").selectedIndex;
    state.off.clear();
    refresh();
  });
  on("in", "click", () => zoom(0.5));
  on("out", "click", () => zoom(2));
  on("whole", "click", () => zoom(100));
  on("lasso", "click", () => pressed(brush === "polygon" ? "" : "polygon"));
  on("rectangle", "click", () => pressed(brush === "rect" ? "" : "rect"));
  on("clear", "click", () => {
    clearBrush();
    setRegion(null);
  });
  on("copy", "click", () => copy(idsAsText()));
  on("txt", "click", () => download("ids.txt", idsAsText()));
  on("jsonl", "click", () => download("ids.jsonl", idsAsLines()));
  on("all", "click", () => {
    state.off.clear();
    refresh();
  });
  on("none", "click", () => {
    state.off = new Set(colouring().labels.keys());
    refresh();
  });
  on("more", "click", lengthenList);
  on("close", "click", closeDialogue);
  on("previous", "click", () => step(-1));
  on("next", "click", () => step(1));
  on("dialogue", "keydown", (event) => event.key === "Escape" && closeDialogue());
  chart.getZr().on("mousemove", hover);
  chart.getZr().on("globalout", () => (at("hint").hidden = true));
  chart.getZr().on("click", (event) => {
    const index = brush ? -1 : nearest(event.offsetX, event.offsetY);
    if (index >= 0) openDialogue(index);
  });
  chart.on("brushEnd", ({ areas }) => {
    pressed(""); // so that the next drag moves the map and the next click opens a dialogue
    if (areas.length) setRegion({ type: areas[0].brushType, range: areas[0].coordRange });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawChart());
}

document.title = `${map.title}: map`;
at("title").textContent = map.title;
at("colouring").append(...map.colourings.map(({ name }) => element("option", name)));
setUpChart();
chart.on("finished", () => (document.body.dataset.drawn ??= performance.now().toFixed(0)));
refresh();
wire();
