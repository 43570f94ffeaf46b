"use strict";
// The texts of the dialogues: packed chunks, inside the page or beside it, unpacked when they are needed.

const packed = {}; // chunk -> base64, put here by the scripts of a folder
const lowered = new Map(); // chunk -> texts in lower case, for the next search
const KEPT = 2e8; // characters of `lowered`: beyond them, chunks are unpacked anew for each search
let keptCharacters = 0;
const pageRead = new Promise((done) => {
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", done);
  else done();
});

async function base64Of(chunk) {
  await pageRead;
  const inside = document.getElementById(`texts-${chunk}`);
  if (inside) return inside.textContent;
  await new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = `texts/${chunk}.js`;
    script.onload = done;
    script.onerror = () => failed(new Error(`texts/${chunk}.js is missing`));
    document.head.append(script);
  });
  const text = packed[chunk];
  delete packed[chunk];
  return text;
}

async function unpack(chunk) {
  const binary = atob(await base64Of(chunk));
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// {messages: [[role, text], ...], meta: {...}} of a dialogue.
async function dialogueAt(index) {
  const chunk = map.starts.findLastIndex((start) => start <= index);
  return (await unpack(chunk))[index - map.starts[chunk]];
}

async function lowerTexts(chunk) {
  if (lowered.has(chunk)) return lowered.get(chunk);
  const start = map.starts[chunk];
  const rows = await unpack(chunk);
  const texts = rows.map((row, n) => [map.ids[start + n], ...row.messages.map((m) => m[1])].join("\n").toLowerCase());
  const size = texts.reduce((sum, text) => sum + text.length, 0);
  if (keptCharacters + size <= KEPT && !lowered.has(chunk)) {
    lowered.set(chunk, texts);
    keptCharacters += size;
  }
  return texts;
}

// Words, and phrases between quotation marks, in lower case.
function termsOf(query) {
  return [...query.toLowerCase().matchAll(/"([^"]+)"?|[^\s"]+/g)].map((found) => found[1] ?? found[0]);
}

// For each dialogue 1 where all terms occur; `moved` hears of the share searched and stops the search by `false`.
async function search(query, moved) {
  const terms = termsOf(query);
  if (!terms.length) return null;
  const found = new Uint8Array(count);
  const chunks = map.starts.length - 1;
  for (let chunk = 0; chunk < chunks; chunk++) {
    const texts = await lowerTexts(chunk);
    texts.forEach((text, n) => {
      found[map.starts[chunk] + n] = terms.every((term) => text.includes(term));
    });
    if (moved((chunk + 1) / chunks) === false) return undefined;
  }
  return found;
}
