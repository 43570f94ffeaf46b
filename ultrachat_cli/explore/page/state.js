"use strict";
// The map, and what is shown of it: dialogues that match the search, in a colour that is on, within the region drawn.

const map = JSON.parse(document.getElementById("map").textContent);
const count = map.ids.length;
const state = {
  colouring: 0,
  off: new Set(), // labels switched off
  matches: null, // 1 for each dialogue that matches the search; null: no search
  terms: [], // what was searched for
  region: null, // {type: "rect" | "polygon", range} in coordinates of the map
  opened: -1, // the dialogue that is read
};
const shown = new Uint8Array(count);
let ofLabel = []; // how many of each label match the search and lie within the region
const PALETTE = [
  "#4e79a7", "#f28e2b", "#e15759", "#59a14f", "#b07aa1", "#edc948", "#1fa5b8", "#ff9da7", "#9c755f", "#8cd17d",
  "#d37295", "#499894", "#b6992d", "#86bcb6", "#a01d4d", "#6a5acd", "#ffbe7d", "#2f6f3e", "#d4a6c8", "#7d4e24", "#a0cbe8",
];
const SCALE = [[59, 111, 212], [42, 168, 168], [127, 194, 94], [242, 193, 78], [228, 87, 46]];
const GREYS = { "(other)": "#8a8f98", "(none)": "#b4b8bf" };

function colouring() {
  return map.colourings[state.colouring];
}

function colourOf(label) {
  const { labels, ordered } = colouring();
  if (!ordered) return GREYS[labels[label]] ?? PALETTE[label % PALETTE.length];
  const at = (label / Math.max(1, labels.length - 1)) * (SCALE.length - 1);
  const low = Math.min(Math.floor(at), SCALE.length - 2);
  const mixed = SCALE[low].map((c, n) => Math.round(c + (SCALE[low + 1][n] - c) * (at - low)));
  return `rgb(${mixed.join(",")})`;
}

function inRegion(x, y) {
  const { type, range } = state.region;
  if (type === "rect") return x >= range[0][0] && x <= range[0][1] && y >= range[1][0] && y <= range[1][1];
  let inside = false; // even-odd rule
  for (let i = 0, j = range.length - 1; i < range.length; j = i++) {
    const [xi, yi] = range[i];
    const [xj, yj] = range[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

// Decide anew what is shown; the rest of the page is told by `main.js`.
function decide() {
  const { codes, labels } = colouring();
  ofLabel = new Array(labels.length).fill(0);
  for (let i = 0; i < count; i++) {
    const fits = (!state.matches || state.matches[i]) && (!state.region || inRegion(map.x[i], map.y[i]));
    if (fits) ofLabel[codes[i]]++;
    shown[i] = fits && !state.off.has(codes[i]) ? 1 : 0;
  }
}

function shownIndices() {
  const found = [];
  for (let i = 0; i < count; i++) if (shown[i]) found.push(i);
  return found;
}
