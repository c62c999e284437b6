"use strict";
// Text from the data enters the page only through textContent, never as markup.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const general = read("general");
const COLUMNS = [
  // name, position in a row of the index, whether it is text
  ["feature", 0, false], ["label", 1, true], ["score", 2, false], ["density", 3, false],
  ["max", 4, false], ["effect", 5, false], ["most active on", 6, true],
];
const PAGE = 200; // rows of the index drawn at a time

function element(tag, properties, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties || {})) {
    if (key === "class") node.className = value;
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function drawing(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function show(x, digits = 3) {
  if (x === null || x === undefined) return "";
  if (x === 0) return "0";
  return Math.abs(x) >= 1e-3 && Math.abs(x) < 1e5
    ? String(Number(x.toPrecision(digits))) : x.toExponential(digits - 2);
}

// -- text -----------------------------------------------------------------------------------

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
const link = (feature) => element("a", { href: "#feature-" + feature }, String(feature));

// -- tooltip --------------------------------------------------------------------------------

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
  if (explained) explained.removeAttribute("aria-describedby");
}

function explain(node, text, then) {
  const appear = () => {
    hideTooltip();
    explained = node;
    tooltip.textContent = text();
    tooltip.hidden = false;
    node.setAttribute("aria-describedby", "tooltip");
    placeTooltip();
    if (then) then(true);
  };
  const vanish = () => { hideTooltip(); if (then) then(false); };
  for (const kind of ["mouseenter", "focus"]) node.addEventListener(kind, appear);
  for (const kind of ["mouseleave", "blur"]) node.addEventListener(kind, vanish);
  return node;
}

// -- tokens by keyboard ---------------------------------------------------------------------

// Whether a token is visible: long rows are clipped.
function inSight(token) {
  const own = token.getBoundingClientRect(), row = token.parentElement.getBoundingClientRect();
  return own.right > row.left + 1 && own.left < row.right - 1;
}

// The tab key focuses one token of a row; the arrow keys move from there.
function walkable(row, tokens, current) {
  tokens.forEach((token, k) => { token.tabIndex = k === current ? 0 : -1; });
  row.addEventListener("focusin", (event) => {
    tokens[current].tabIndex = -1;
    current = tokens.indexOf(event.target);
    tokens[current].tabIndex = 0;
  });
  row.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const next = tokens[current + by];
    if (next && inSight(next)) next.focus();
  });
}

// -- index ----------------------------------------------------------------------------------

const order = { column: 3, descending: true };
const labels = new Map(general.index.map((row) => [row[0], row[1] ? visible(row[1]) : ""]));
// Names of features that are mentioned on this page but not part of it.
const others = new Map(Object.entries(general.names).map(([j, name]) => [Number(j), visible(name)]));
const nameOf = (feature) => labels.get(feature) || others.get(feature) || "";
let listed = [], drawn = 0;

function compare(a, b) {
  const x = a[order.column], y = b[order.column];
  if (x === null || y === null) return (x === null) - (y === null) || a[0] - b[0]; // null sorts last
  const sign = order.descending ? -1 : 1;
  const by = typeof x === "string" ? x.localeCompare(y) : x - y;
  return sign * by || a[0] - b[0];
}

// The text that a search looks in: label and tokens, as they are and as they are displayed.
const findable = new Map(general.index.map((row) => {
  const texts = row[1] ? [row[1], ...row[6]] : row[6];
  return [row[0], texts.flatMap((text) => [text, visible(text)]).join("\n").toLowerCase()];
}));

function isFound([feature], sought) {
  const number = /^(?:#|feature\s*)?(\d+)$/.exec(sought);
  return (number && Number(number[1]) === feature) || findable.get(feature).includes(sought);
}

function list() {
  const sought = document.getElementById("search").value.trim().toLowerCase();
  const alive = document.getElementById("alive").checked;
  listed = general.index.filter((row) => (!alive || row[3] > 0) && isFound(row, sought));
  listed.sort(compare);
  document.getElementById("rows").replaceChildren();
  drawn = 0;
  drawRows();
  const all = general.index.length, chosen = all < general.n_components ? ` (of ${general.n_components} in the dictionary)` : "";
  document.getElementById("count").textContent =
    `${listed.length} of ${all} features${chosen}, ${general.n_samples.toLocaleString("en")} tokens`;
  for (const head of document.querySelectorAll("#columns th[data-column]")) {
    const is = Number(head.dataset.column) === order.column;
    head.setAttribute("aria-sort", is ? (order.descending ? "descending" : "ascending") : "none");
    head.querySelector("span").textContent = is ? (order.descending ? " ▼" : " ▲") : "";
  }
}

// Clicks with a modifier key are left to the browser: they open another tab or window.
const isPlain = (event) => !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);

function openRow(event) {
  if (!isPlain(event) || event.target.closest("a")) return;
  location.hash = "feature-" + event.currentTarget.dataset.feature;
}

function drawRows() {
  const body = document.getElementById("rows");
  for (const row of listed.slice(drawn, drawn + PAGE)) {
    body.append(element("tr", { "data-feature": row[0], onclick: openRow },
      element("td", {}, link(row[0])),
      element("td", { class: "text" }, labels.get(row[0])),
      ...[2, 3, 4, 5].map((i) => element("td", {}, show(row[i]))),
      element("td", { class: "text" }, ...row[6].map(word))));
  }
  drawn = Math.min(drawn + PAGE, listed.length);
  document.getElementById("more").hidden = drawn === listed.length;
}

function drawColumns() {
  for (const [name, column, text] of COLUMNS) {
    const head = element("th", { class: text ? "text" : "" }, name);
    if (column < 6) {
      const sort = () => {
        order.descending = order.column === column ? !order.descending : !text && column > 0;
        order.column = column;
        list();
      };
      head.replaceChildren(element("button", { type: "button", onclick: sort }, name, element("span", {})));
      head.dataset.column = column;
    }
    document.getElementById("columns").append(head);
  }
}

// -- charts ---------------------------------------------------------------------------------

function bars(heights, { name, low, high, format = show, tips, mark = null, height = 70, less = () => false }) {
  const width = 300, step = width / heights.length, top = Math.max(...heights, 1e-12);
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height + 14}`, role: "img",
    "aria-label": `${name}, from ${format(low)} to ${format(high)}` });
  heights.forEach((value, i) => {
    const tall = value > 0 ? Math.max(1, (value / top) * height) : 0;
    const bar = drawing("rect", { x: i * step, y: height - tall, width: Math.max(step - 0.6, 0.6), height: tall });
    if (less(i)) bar.classList.add("less");
    const area = drawing("rect", { x: i * step, y: 0, width: step, height, style: "fill: transparent" });
    svg.append(bar, explain(area, () => tips(i)));
  });
  svg.append(drawing("line", { class: "axis", x1: 0, x2: width, y1: height, y2: height }));
  const place = (x) => ((x - low) / (high - low || 1)) * width;
  const line = drawing("line", { class: "mark", y1: 0, y2: height, visibility: "hidden" });
  const put = (x) => {
    line.setAttribute("visibility", x === null ? "hidden" : "visible");
    if (x !== null) { line.setAttribute("x1", place(x)); line.setAttribute("x2", place(x)); }
  };
  put(mark);
  const left = drawing("text", { x: 0, y: height + 12 }), right = drawing("text", { x: width, y: height + 12, "text-anchor": "end" });
  left.textContent = format(low);
  right.textContent = format(high);
  svg.append(line, left, right);
  return { svg, put };
}

function densityChart(feature) {
  const { low, counts, dead } = general.population;
  const power = (x) => "10^" + show(x);
  const { svg } = bars(counts, {
    name: "Histogram of the densities of all features", low, high: low + counts.length / 4, format: power,
    mark: feature.density > 0 ? Math.log10(feature.density) : null,
    tips: (i) => `${counts[i]} features with a density of ${power(low + i / 4)} to ${power(low + (i + 1) / 4)}`,
  });
  return element("div", {},
    element("h3", {}, "Density ", element("small", {}, `among all features; ${dead} are never active`)), svg);
}

function activationCharts(feature) {
  const counts = feature.histogram, width = feature.maximum / counts.length;
  const range = (i) => `${show(i * width)} to ${show((i + 1) * width)}`;
  const sums = counts.map((count, i) => count * (i + 0.5) * width);
  const total = sums.reduce((a, b) => a + b, 0) || 1;
  const tokens = bars(counts.map((count) => Math.log1p(count)), {
    name: "Histogram of activations", low: 0, high: feature.maximum, tips: (i) => `${counts[i]} tokens at ${range(i)}` });
  const shares = bars(sums, {
    name: "Share of the sum of activations by activation", low: 0, high: feature.maximum, height: 45,
    tips: (i) => `${show((100 * sums[i]) / total)} % of all activation is at ${range(i)}` });
  const node = element("div", {},
    element("h3", {}, "Activations ", element("small", {}, "tokens, logarithmic")), tokens.svg,
    element("h3", {}, "Expected value ", element("small", {}, "share of the sum of activations")), shares.svg);
  return { node, put: (x) => { tokens.put(x); shares.put(x); } };
}

function table(rows, heads) {
  return element("table", {}, element("thead", {}, element("tr", {}, ...heads.map(([name, text]) =>
    element("th", { class: text ? "text" : "" }, name)))),
  element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((cell, i) =>
    element("td", { class: heads[i][1] ? "text" : "" }, cell))))));
}

function logitPanel({ up, down, counts, range }) {
  const rows = (words) => words.map(([text, weight]) => [word(text), show(weight)]);
  const width = (range[1] - range[0]) / counts.length;
  const edge = (i) => range[0] + i * width;
  const { svg } = bars(counts.map((count) => Math.log1p(count)), {
    name: "Histogram of the weights on logits", low: range[0], high: range[1], height: 40, less: (i) => edge(i) + width / 2 < 0,
    tips: (i) => `${counts[i]} tokens with a weight of ${show(edge(i))} to ${show(edge(i + 1))}` });
  const heads = [["token", true], ["weight", false]];
  return element("div", {}, element("h3", {}, "Logits ", element("small", {}, "raised and lowered per unit of activation")),
    element("div", { class: "pair logits" }, table(rows(up), heads), table(rows(down), heads)), svg);
}

// -- snippets -------------------------------------------------------------------------------

const documentOf = (place) => {
  const runs = general.tokens.document; // [document, start, document, start, ...]
  let low = 0, high = runs.length / 2 - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (runs[2 * middle + 1] <= place) low = middle; else high = middle - 1;
  }
  return runs[2 * low];
};

function spread(flat) {
  const found = new Map();
  for (let i = 0; i < flat.length; i += 2) found.set(flat[i], flat[i + 1]);
  return found;
}

const hasEffects = general.index.some((row) => row[5] !== null);

function snippet(feature, [start, length, centre, codes, effects], shown, put) {
  const values = spread(codes), changes = spread(effects);
  const strongest = Math.max(0.05, ...[...changes.values()].map(Math.abs));
  const before = element("span", { class: "before" }), behind = element("span", { class: "behind" });
  const row = element("span", { class: "tokens" }, before, behind);
  for (let k = 0; k < length; k++) {
    const text = general.tokens.names[general.tokens.ids[start + k]];
    const token = element("span", { class: "token" }, visible(text));
    const value = values.get(k) || 0, change = changes.get(k);
    token.style.setProperty("--a", feature.maximum > 0 ? value / feature.maximum : 0);
    if (k === centre) token.classList.add("centre");
    if (change !== undefined && Math.abs(change) > 0.1 * strongest) {
      token.classList.add(change > 0 ? "helped" : "hurt");
    }
    explain(token, () => {
      const lines = [`“${visible(text)}”`, `activation ${show(value)}`];
      if (change !== undefined) {
        lines.push(`the feature ${change > 0 ? "helped" : "hurt"} to predict it: ${change > 0 ? "+" : "−"}${show(Math.abs(change))} nats`);
      }
      lines.push(`document ${documentOf(start + k)}`);
      return lines.join("\n");
    }, (inside) => put(inside && value > 0 ? value : null));
    (k < centre ? before : behind).append(token);
  }
  walkable(row, [...row.querySelectorAll(".token")], centre);
  return element("div", { class: "snippet" },
    element("span", { class: "value" }, show(shown === undefined ? values.get(centre) || 0 : shown)), row);
}

// Of snippets with the same tokens only the first one, with their number.
function distinct(feature, found, shown, put) {
  const seen = new Map();
  found.forEach((each, i) => {
    const key = general.tokens.ids.slice(each[0], each[0] + each[1]).join() + ":" + each[2];
    if (seen.has(key)) seen.get(key).count++;
    else seen.set(key, { each, value: shown[i], count: 1 });
  });
  return [...seen.values()].map(({ each, value, count }) => {
    const node = snippet(feature, each, value, put);
    node.append(element("span", { class: "count" }, count > 1 ? "×" + count : "")); // also if empty, so that rows stay aligned
    return node;
  });
}

const NEAR_BY = { pre_activations: "the encoder's pre-activation", projections: "the projection on the atom, x·d" };

function snippets(feature, put) {
  const node = element("div", { class: "snippets" });
  const part = (title, hint, groups, shown = []) => {
    const all = groups.flat();
    if (all.length === 0) return;
    node.append(element("h3", {}, title + " ", element("small", {}, hint)),
      ...distinct(feature, all, shown, put));
  };
  const { top, intervals, random, near } = feature.snippets;
  const underlined = "; underlined where the feature helped (solid) or hurt (dotted) the prediction";
  part("Most active", "shaded by activation" + (hasEffects ? underlined : ""), top);
  const n = intervals.length, width = feature.maximum / n;
  for (let i = n - 1; i >= 0; i--) {
    part(`${show(i * width)} to ${show((i + 1) * width)}`, "sampled from this interval", [intervals[i]]);
  }
  part("At random", "sampled from all tokens on which the feature is active", random);
  part("Near misses", `inactive, but closest to active; on the left, ${NEAR_BY[general.near_by]}`, near, feature.near_values);
  if (node.childElementCount === 0) node.append(element("p", { class: "hint" }, "Never active on these tokens."));
  return node;
}

// -- a feature ------------------------------------------------------------------------------

function drawFeature(id) {
  const view = document.getElementById("feature-view"), name = `Feature ${id}`;
  if (!labels.has(id)) {
    view.replaceChildren(element("h2", {}, `${name} is not on this page. `, element("a", { href: "#index" }, "Index")));
    return name;
  }
  const feature = read("data-" + id), label = labels.get(id);
  const charts = activationCharts(feature);
  const facts = [
    ["density", `${show(feature.density)} (${feature.n_active.toLocaleString("en")} tokens)`],
    ["maximum", show(feature.maximum)], ["mean if active", show(feature.mean)],
    ["score", show(feature.score)],
    ["effect", feature.effect === null ? "" : `${show(feature.effect)} nats at the most active tokens`],
    ["enc·dec cosine", feature.encoder ? show(feature.encoder[0]) : ""],
    ["encoder bias", feature.encoder ? show(feature.encoder[1]) : ""],
  ].filter(([, value]) => value !== "");
  const near = (pairs) => pairs.map(([other, value]) => [labels.has(other) ? link(other) : String(other), show(value), nameOf(other)]);
  const heads = (name) => [["feature", false], [name, false], ["", true]];
  const i = listed.findIndex((row) => row[0] === id);
  const step = (k, text) => listed[i + k] && i >= 0 ? element("a", { href: "#feature-" + listed[i + k][0] }, text) : element("span", { class: "hint" }, text);
  view.replaceChildren(
    element("h2", {}, name, label ? ": " : "", element("bdi", {}, label), " ",
      element("small", { class: "hint" }, step(-1, "previous (k)"), " · ", step(1, "next (j)"))),
    element("div", { class: "columns" },
      element("div", {},
        element("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
        densityChart(feature), charts.node,
        feature.logits ? logitPanel(feature.logits) : null,
        ...general.missing.map((text) => element("p", { class: "hint" }, visible(text))),
        element("h3", {}, "Neurons ", element("small", {}, "greatest weights of the atom, of either sign, and share of its L1 norm")),
        table(feature.neurons.map(([j, value, share]) => [String(j), show(value), show(100 * share) + " %"]), [["neuron", false], ["weight", false], ["share", false]]),
        element("h3", {}, "Nearest features ", element("small", {}, "of all " + general.n_components)),
        element("div", { class: "pair neighbours" }, table(near(feature.cosine), heads("cosine")), table(near(feature.correlation), heads("correlation")))),
      snippets(feature, charts.put)));
  return label ? `${name}: ${label}` : name;
}

// -- a text ---------------------------------------------------------------------------------

const N_OF_TOKEN = 12; // features listed in the details of a token
let texts = null;
const allTexts = () => { if (texts === null) texts = read("texts"); return texts; };
function drawText(index) {
  const view = document.getElementById("text-view"), name = `Text ${index}`;
  const tokens = allTexts()[index];
  if (!tokens) { view.replaceChildren(element("h2", {}, "This text does not exist.")); return name; }
  const aside = element("div", { class: "aside" }, element("p", { class: "hint" }, "Click on a token to see its features."));
  const body = element("div", { class: "prose" });
  const strengths = (chosen) => tokens.map(([, codes]) => {
    const values = spread(codes);
    return chosen === null ? Math.max(0, ...values.values()) : values.get(chosen) || 0;
  });
  const shade = (chosen) => {
    const values = strengths(chosen), top = Math.max(1e-12, ...values);
    [...body.children].forEach((node, k) => node.style.setProperty("--a", values[k] / top));
  };
  tokens.forEach(([text, codes], k) => {
    const node = element("span", { class: "token", role: "button" }, visibleLines(text));
    if (text.startsWith("\n")) node.classList.add("break");
    const named = (j) => `${j} ${nameOf(j)}`.trimEnd();
    explain(node, () => {
      const lines = [...spread(codes)].slice(0, 5).map(([j, value]) => `${named(j)}  ${show(value)}`);
      return [`“${visible(text)}”`, ...(lines.length ? lines : ["no feature is active"])].join("\n");
    });
    node.addEventListener("click", () => {
      body.querySelectorAll(".chosen").forEach((other) => other.classList.remove("chosen"));
      node.classList.add("chosen");
      const active = [...spread(codes)], weaker = active.length - N_OF_TOKEN;
      const rows = active.slice(0, N_OF_TOKEN).map(([j, value]) => [
        labels.has(j) ? link(j) : String(j), nameOf(j), show(value),
        element("button", { type: "button", onclick: () => shade(j) }, "shade")]);
      aside.replaceChildren(element("h3", {}, `Token ${k}: “${visible(text)}”`),
        table(rows, [["feature", false], ["label", true], ["activation", false], ["", false]]),
        ...(weaker > 0 ? [element("p", { class: "hint" }, `and ${weaker} weaker ones`)] : []),
        element("p", {}, element("button", { type: "button", onclick: () => shade(null) }, "shade by the strongest")));
    });
    body.append(node);
  });
  body.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.target.click();
  });
  walkable(body, [...body.children], 0);
  shade(null);
  view.replaceChildren(element("h2", {}, name), element("div", { class: "reading" }, body, aside));
  return name;
}

// -- navigation -----------------------------------------------------------------------------

const title = document.title;
const draw = { index: () => "", feature: drawFeature, text: drawText }; // each returns the title of the view
let shownView = null, indexScroll = 0;

function go() {
  const found = /^#(feature|text)-(\d+)$/.exec(location.hash);
  const view = found ? found[1] : "index";
  if (shownView === "index") indexScroll = scrollY;
  hideTooltip();
  for (const each of Object.keys(draw)) document.getElementById(each + "-view").hidden = each !== view;
  const name = draw[view](found && Number(found[2]));
  document.title = name ? `${name} – ${title}` : title;
  if (shownView !== null) focusHeading(document.getElementById(view + "-view"));
  markLink();
  scrollTo(0, view === "index" ? indexScroll : 0);
  shownView = view;
}

// The heading of a new view gets the focus, unless the focus is already inside the view.
function focusHeading(view) {
  if (view.contains(document.activeElement)) return;
  const heading = view.querySelector("h2") || document.querySelector("h1");
  heading.tabIndex = -1;
  heading.focus({ preventScroll: true });
}

function markLink() {
  for (const each of document.querySelectorAll("header nav a")) {
    const here = each.hash === (location.hash || "#index");
    each.setAttribute("aria-current", here ? "page" : "false");
    if (here) each.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function step(k) {
  const found = /^#feature-(\d+)$/.exec(location.hash);
  const i = found ? listed.findIndex((row) => row[0] === Number(found[1])) + k : 0;
  if (listed[i]) location.hash = "feature-" + listed[i][0];
}

// In the iframe of a notebook the browser would resolve "#index" in the notebook, so handle it here.
function follow(event) {
  const anchor = event.target.closest("a");
  if (!anchor || !isPlain(event)) return;
  event.preventDefault();
  location.hash = anchor.hash;
}

function leave() {
  if (!tooltip.hidden) { hideTooltip(); return; }
  location.hash = "index";
  document.getElementById("search").blur();
}

function search() {
  const field = document.getElementById("search");
  location.hash = "index";
  go();
  field.focus();
  field.select();
}

document.addEventListener("click", follow);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") { leave(); return; }
  if (event.target.id === "search") {
    if (event.key === "Enter" && listed.length) location.hash = "feature-" + listed[0][0];
    return;
  }
  if (event.key === "/") { event.preventDefault(); search(); }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
});

// -- dark and light -------------------------------------------------------------------------

// localStorage throws where it is forbidden, as in the iframe of a notebook; the choice is then lost.
function remembered() {
  try { return localStorage.getItem("skdict-theme"); } catch { return null; }
}

function remember(theme) {
  try { localStorage.setItem("skdict-theme", theme); } catch { /* not allowed */ }
}

function setTheme(theme) {
  for (const each of ["dark", "light"]) document.documentElement.classList.toggle(each, each === theme);
}

function switchTheme() {
  const root = document.documentElement.classList;
  const dark = root.contains("dark") || (!root.contains("light") && matchMedia("(prefers-color-scheme: dark)").matches);
  const theme = dark ? "light" : "dark";
  setTheme(theme);
  remember(theme);
}

// -- start ----------------------------------------------------------------------------------

setTheme(remembered());
document.getElementById("theme").addEventListener("click", switchTheme);
document.getElementById("search").addEventListener("input", list);
document.getElementById("alive").addEventListener("change", list);
document.getElementById("more").addEventListener("click", drawRows);
for (let i = 0; i < general.n_texts; i++) {
  document.getElementById("text-links").append(element("a", { href: "#text-" + i }, "Text " + i));
}
addEventListener("hashchange", go);
addEventListener("scroll", placeTooltip, { passive: true });
history.scrollRestoration = "manual"; // the views share one page
drawColumns();
list();
go();
