"use strict";
// Texts of the data reach the page as text alone (textContent), addresses of pictures as the program wrote them.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const ROW = 64, SHOWN = 10;
const state = { block: null, kept: [], selected: -1 };

function element(tag, classes, text) {
  const made = document.createElement(tag);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  return made;
}

function options(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, label]) => {
    const made = element("option", "", label);
    made.value = value;
    return made;
  }));
  if (chosen !== undefined) select.value = chosen;
}

function gone(name) {
  return element("div", "gone", `missing: ${name}`);
}

function picture(number, caption, right) {
  const figure = element("figure", right ? "picture right" : "picture");
  const name = number < 0 ? "unknown" : data.pictures[number];
  const source = number < 0 ? "" : data.sources[number];
  if (source) {
    const image = element("img");
    image.alt = name;
    image.loading = "lazy";
    image.decoding = "async";
    image.addEventListener("error", () => image.replaceWith(gone(name)));
    image.src = source;
    figure.append(image);
  } else {
    figure.append(gone(name));
  }
  figure.title = name;
  if (caption) figure.append(element("figcaption", "", caption));
  return figure;
}

const number = (value) => value.toLocaleString("en-GB");

// ---- one task at a time

function chooseBlock(index) {
  state.block = data.blocks[index];
  for (const part of document.querySelectorAll(".block")) part.hidden = Number(part.dataset.block) !== index;
  $("browser-task").textContent = $("block").selectedOptions[0].textContent;
  const sides = state.block.sides.map((side, i) => [String(i), side.label]);
  for (const id of ["rank-side", "side-a", "side-b"]) options($(id), sides);
  if (sides.length > 1) $("side-b").value = "1";
  options($("category"), [["", "all"], ...state.block.categories.map((name, i) => [String(i), name])]);
  $("category-label").hidden = state.block.categories.length < 2;
  state.texts = state.block.texts.map((text) => text.toLowerCase());
  filter();
}

function filter() {
  const block = state.block;
  const words = $("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const by = block.sides[Number($("rank-side").value)];
  const low = Number($("rank-low").value) || 0, high = Number($("rank-high").value) || Infinity;
  const category = $("category").value, kind = $("kind").value, relation = $("relation").value;
  const a = block.sides[Number($("side-a").value)], b = block.sides[Number($("side-b").value)];
  const k = Number($("cutoff").value);
  const hit = (side, i) => side.ranks[i] > 0 && side.ranks[i] <= k;
  const relations = {
    "right": (i) => hit(a, i),
    "wrong": (i) => !hit(a, i),
    "right-wrong": (i) => hit(a, i) && !hit(b, i),
    "both": (i) => hit(a, i) && hit(b, i),
    "neither": (i) => !hit(a, i) && !hit(b, i),
  };
  const kinds = {
    "negation": (i) => block.negation[i] === 1,
    "plain": (i) => block.negation[i] === 0,
    "several": (i) => block.changes[i] > 1,
  };
  const kept = [];
  for (let i = 0; i < block.ids.length; i++) {
    if (category !== "" && block.category[i] !== Number(category)) continue;
    if (by && (by.ranks[i] < low || by.ranks[i] > high)) continue;
    if (kind && !kinds[kind](i)) continue;
    if (a && relation && !relations[relation](i)) continue;
    if (!words.every((word) => state.texts[i].includes(word))) continue;
    kept.push(i);
  }
  const orders = {
    "best": (i, j) => a.ranks[i] - a.ranks[j],
    "worst": (i, j) => a.ranks[j] - a.ranks[i],
    "differ": (i, j) => Math.abs(Math.log(a.ranks[j] / b.ranks[j])) - Math.abs(Math.log(a.ranks[i] / b.ranks[i])),
  };
  if (a && orders[$("order").value]) kept.sort(orders[$("order").value]);
  state.kept = kept;
  $("count").textContent = `${number(kept.length)} of ${number(block.ids.length)} queries`;
  $("rows").style.height = `${kept.length * ROW}px`;
  $("list").scrollTop = 0;
  select(kept.length ? 0 : -1);
}

// ---- the list shows what is in view alone, so that its length costs nothing

function drawRows() {
  const list = $("list"), block = state.block;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const last = Math.min(state.kept.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 4);
  const rows = [];
  for (let place = first; place < last; place++) {
    const i = state.kept[place];
    const row = element("div", "row");
    row.id = `row-${place}`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(place === state.selected));
    row.setAttribute("aria-posinset", String(place + 1));
    row.setAttribute("aria-setsize", String(state.kept.length));
    row.style.top = `${place * ROW}px`;
    row.append(element("div", "text", block.texts[i] || block.ids[i]));
    const chips = element("div", "chips");
    chips.append(element("span", "", block.ids[i]));
    for (const side of block.sides) {
      chips.append(element("span", `chip s${side.number % 8}`, side.ranks[i] > 0 ? `rank ${number(side.ranks[i])}` : "no rank"));
    }
    row.append(chips);
    row.addEventListener("click", () => { select(place); });
    rows.push(row);
  }
  $("rows").replaceChildren(...rows);
}

function select(place) {
  state.selected = place;
  const list = $("list");
  if (place >= 0) {
    const top = place * ROW;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    list.setAttribute("aria-activedescendant", `row-${place}`);
  } else {
    list.removeAttribute("aria-activedescendant");
  }
  drawRows();
  drawQuery();
}

function drawQuery() {
  const block = state.block, shown = $("query");
  if (state.selected < 0) {
    shown.replaceChildren(element("p", "caption", "No query is left: clear a filter."));
    return;
  }
  const i = state.kept[state.selected];
  const asked = element("div", "asked");
  asked.append(picture(block.references[i], "reference", false));
  const text = element("p", "text", block.texts[i] || "(the text is not here)");
  const category = block.categories[block.category[i]];
  text.append(element("span", "id", `query ${block.ids[i]}${category ? `, ${category}` : ""}`));
  asked.append(text);
  if (block.targets[i] >= 0) asked.append(picture(block.targets[i], "target", true));
  const parts = [asked];
  for (const side of block.sides) {
    const head = element("h4");
    head.append(element("span", `key s${side.number % 8}`), `${side.label}: ${side.ranks[i] > 0 ? `rank ${number(side.ranks[i])}` : "no rank"}`);
    const strip = element("ol", "strip");
    for (let place = 0; place < SHOWN; place++) {
      const found = side.top[i * SHOWN + place];
      if (found < 0) continue;
      const right = (side.marks[i] >> place & 1) === 1;
      const entry = element("li");
      entry.append(picture(found, right ? `${place + 1}, right ✓` : String(place + 1), right));
      strip.append(entry);
    }
    parts.push(head, strip.children.length ? strip : element("p", "caption", "No list is kept of this run."));
  }
  shown.replaceChildren(...parts);
}

function move(event) {
  const page = Math.max(1, Math.floor($("list").clientHeight / ROW) - 1), last = state.kept.length - 1;
  const steps = {
    "ArrowDown": 1, "j": 1, "ArrowUp": -1, "k": -1, "PageDown": page, "PageUp": -page, "Home": -Infinity, "End": Infinity,
  };
  if (!(event.key in steps) || last < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  select(Math.min(last, Math.max(0, state.selected + steps[event.key])));
}

// ---- what attends to what

function drawMap(map, grids, reference) {
  const box = element("div", "map");
  const matrix = Array.isArray(map.values[0]) && grids.length > 0;
  const cells = [];
  let from = 0;
  function shade() {
    const shares = matrix ? map.values[from] : map.values.flat();
    const most = Math.max(...shares, 1e-9);
    cells.forEach((cell, i) => {
      cell.style.setProperty("--share", String(0.8 * shares[i] / most));
      cell.title = `${(100 * shares[i]).toFixed(1)} %`;
      if (matrix) cell.setAttribute("aria-pressed", String(i === from));
    });
  }
  box.append(element("h4", "", map.name));
  const all = element("div", "grids");
  for (const grid of grids.length ? grids : [map.values.length]) {
    const patched = element("div", "patched");
    const shown = picture(reference, "", false);
    patched.append(...shown.childNodes);
    const over = element("div", "cells");
    over.style.gridTemplateColumns = `repeat(${grid}, 1fr)`;
    for (let i = 0; i < grid * grid; i++) {
      const cell = element(matrix ? "button" : "div", "cell");
      if (matrix) {
        const own = cells.length;
        cell.type = "button";
        cell.setAttribute("aria-label", `patch ${i + 1} of the ${grid} by ${grid} grid`);
        cell.addEventListener("click", () => { from = own; shade(); });
      }
      cells.push(cell);
      over.append(cell);
    }
    patched.append(over);
    all.append(patched);
  }
  box.append(all);
  shade();
  return box;
}

function drawMaps() {
  const side = data.attention[Number($("attention-side").value)];
  const example = side.examples[Number($("attention-query").value)];
  $("maps").replaceChildren(...example.maps.map((map) => drawMap(map, side.grids, example.reference)));
}

function chooseAttention() {
  const side = data.attention[Number($("attention-side").value)];
  options($("attention-query"), side.examples.map((example, i) => [String(i), example.text || example.id]));
  drawMaps();
}

// ---- listeners

if (data.blocks.length) {
  $("block").addEventListener("change", () => chooseBlock(Number($("block").value)));
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(() => chooseBlock(Number($("block").value)), 0));
  $("list").addEventListener("scroll", () => requestAnimationFrame(drawRows));
  $("list").addEventListener("keydown", move);
  window.addEventListener("resize", drawRows);
  document.addEventListener("keydown", (event) => {
    if (event.target !== document.body) return;
    if (event.key === "/") { event.preventDefault(); $("words").focus(); }
    if (event.key === "j" || event.key === "k") move(event);
  });
  chooseBlock(0);
} else {
  $("queries").hidden = true;
}
if (data.attention.length) {
  options($("attention-side"), data.attention.map((side, i) => [String(i), side.label]));
  $("attention-side").addEventListener("change", chooseAttention);
  $("attention-query").addEventListener("change", drawMaps);
  chooseAttention();
} else if ($("maps")) {
  for (const bar of document.querySelectorAll("#attention .bar")) bar.hidden = true;
}
