"use strict";
// What the panels are made of: elements, numbers, texts and charts.
// Text from the data enters the page only through textContent, never as markup.

const panels = {}; // each panel's file adds itself under its name

function element(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.className = value;
    else if (key === "tip" || key === "hover") node[key] = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function drawing(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// -- numbers: three significant digits, never powers of ten -----------------------------------

const grouped = (n) => n.toLocaleString("en");

function show(x, digits = 3) {
  if (x === null || x === undefined) return "";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1000) return grouped(Math.round(x)).replace("-", "−");
  if (size < 1e-5) return (x < 0 ? "−" : "") + "<0.00001";
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return String(Number(x.toFixed(Math.min(places, 7)))).replace(/^-/, "−").replace(/^(−?)(\d)e-(\d+)$/, "$10.$2e-$3");
}

const percent = (x) => (x === null || x === undefined ? "" : show(100 * x) + " %");
const signed = (x) => (x > 0 ? "+" : "") + show(x);

// -- text --------------------------------------------------------------------------------------

const SIGNS = { "\n": "⏎", "\t": "⇥", "\r": "␍", "\x7f": "␡", "\xa0": "⍽" };
// Control characters, lone surrogates, line separators, and other characters without a glyph.
const UNSEEN = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\xa0]/gu;

function sign(character) {
  const code = character.codePointAt(0);
  if (character in SIGNS) return SIGNS[character];
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  return `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
}

// The text of a token with its invisible characters replaced by signs.
const visible = (text) => (text === "" ? "∅" : text.replace(UNSEEN, sign));
const visibleLines = (text) => text.split("\n").map((line) => line && visible(line)).join("\n") || "∅";
const word = (text) => element("span", { class: "word" }, visible(text));

// -- parts of the page -------------------------------------------------------------------------

const heading = (text, hint) => element("h3", {}, text, hint ? [" ", element("small", {}, hint)] : null);
const card = (text, hint, ...children) => element("section", { class: "card" }, heading(text, hint), ...children);
const facts = (rows) => element("dl", { class: "facts" }, ...rows.map(([name, value, tip]) =>
  [element("dt", tip ? { tip: () => tip, "data-tip": "" } : {}, name), element("dd", {}, value)]));

function table(rows, heads) {
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads.map(([name, text]) =>
    element("th", { class: text ? "text" : "" }, name)))),
  element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, i) =>
    element("td", { class: heads[i][1] ? "text" : "" }, cell))))));
}

// -- tooltip: one for all elements that have a function `tip` ------------------------------------

const tooltip = document.getElementById("tooltip");
let explained = null; // the element that the tooltip describes

function placeTooltip() {
  if (tooltip.hidden) return;
  const box = explained.getBoundingClientRect(), own = tooltip.getBoundingClientRect();
  const left = Math.max(4, Math.min(box.left, innerWidth - own.width - 8));
  const below = box.bottom + 6;
  const top = below + own.height < innerHeight ? below : Math.max(4, box.top - own.height - 6);
  tooltip.style.left = left + "px";
  tooltip.style.top = top + "px";
}

function hideTooltip() {
  tooltip.hidden = true;
  if (!explained) return;
  explained.removeAttribute("aria-describedby");
  if (explained.hover) explained.hover(false);
  explained = null;
}

function showTooltip(node) {
  if (node === explained && !tooltip.hidden) return;
  hideTooltip();
  const text = node.tip();
  if (!text) return;
  explained = node;
  tooltip.textContent = text;
  tooltip.hidden = false;
  node.setAttribute("aria-describedby", "tooltip");
  if (node.hover) node.hover(true);
  placeTooltip();
}

for (const [kind, appears] of [["mouseover", true], ["focusin", true], ["mouseout", false], ["focusout", false]]) {
  document.addEventListener(kind, (event) => {
    const node = event.target.closest && event.target.closest("[data-tip]");
    if (appears && node) showTooltip(node);
    else if (!appears && node === explained) hideTooltip();
  });
}
addEventListener("scroll", placeTooltip, { passive: true });

// The tab key focuses one token of a row; the arrow keys move from there.
function walkable(row, tokens, current) {
  if (tokens.length === 0) return;
  tokens[current].tabIndex = 0;
  row.addEventListener("focusin", (event) => {
    if (!tokens.includes(event.target)) return;
    tokens[current].tabIndex = -1;
    current = tokens.indexOf(event.target);
    tokens[current].tabIndex = 0;
  });
  row.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const next = tokens[current + by];
    if (!next) return;
    next.tabIndex = -1;
    if (inSight(next)) next.focus({ preventScroll: false });
  });
}

// Whether a token is visible: long rows are clipped.
function inSight(token) {
  const own = token.getBoundingClientRect(), row = token.parentElement.getBoundingClientRect();
  return own.right > row.left + 1 && own.left < row.right - 1;
}

// -- charts ------------------------------------------------------------------------------------

// Bars from `low` on, each `step` wide in the data's units.
function bars(heights, { name, low, step, format = show, tips, mark = null, height = 64, kind = () => "", onclick = null, ends = false, width = 220 }) {
  const wide = width / heights.length;
  const top = Math.max(...heights, 1e-12), high = low + step * heights.length;
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height + 14}`, role: "img",
    "aria-label": `${name}, from ${format(low)} to ${format(high)}` });
  const tall = (value) => (value > 0 ? Math.max(1, (value / top) * height) : 0);
  heights.forEach((value, i) => {
    const gap = Math.min(0.8, wide / 4);
    svg.append(drawing("rect", { x: i * wide, y: height - tall(value), width: wide - gap, height: tall(value), class: kind(i) }));
    const area = drawing("rect", { x: i * wide, y: 0, width: wide, height, class: "area", "data-tip": "" });
    area.tip = () => tips(i);
    if (onclick) { area.style.cursor = "pointer"; area.addEventListener("click", () => onclick(i)); }
    svg.append(area);
  });
  svg.append(drawing("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height }));
  const place = (x) => ((x - low) / (high - low || 1)) * width;
  const line = drawing("line", { class: "mark", y1: 0, y2: height, visibility: "hidden" });
  const put = (x) => {
    line.setAttribute("visibility", x === null ? "hidden" : "visible");
    if (x !== null) { line.setAttribute("x1", place(x)); line.setAttribute("x2", place(x)); }
  };
  put(mark);
  svg.append(line);
  for (const [x, anchor, value] of [[0, "start", low], [width / 2, "middle", (low + high) / 2], [width, "end", high]]) {
    if (ends && anchor === "middle") continue;
    const text = drawing("text", { x, y: height + 12, "text-anchor": anchor });
    text.textContent = format(value);
    svg.append(text);
  }
  return { svg, put };
}

// A score on a line from 0 to 1, with chance and baselines.
function dots(marks, name) {
  const width = 120, place = (x) => 4 + Math.max(0, Math.min(1, x)) * (width - 8);
  const svg = drawing("svg", { viewBox: `0 0 ${width} 14`, role: "img", "aria-label": name, class: "dots" });
  svg.append(drawing("line", { class: "axis", x1: 4, x2: width - 4, y1: 7, y2: 7 }));
  for (const [kind, value] of marks) {
    if (value === null || value === undefined) continue;
    svg.append(kind === "chance"
      ? drawing("line", { class: kind, x1: place(value), x2: place(value), y1: 2, y2: 12 })
      : drawing("circle", { class: kind, cx: place(value), cy: 7, r: kind === "score" ? 4 : 3 }));
  }
  return svg;
}
