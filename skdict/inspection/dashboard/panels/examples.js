// Examples in context, or on pictures.
const N_CONTEXT = 25; // tokens before and behind, before a click shows all

panels.examples = {
  order: 6,
  async main(feature, { put }) {
    const found = await this.lines(feature, put);
    const { top, random, intervals, near_misses: near } = feature.examples;
    const node = element("div", { class: "examples" }, found.legend);
    const part = (title, hint, rows, options) => {
      if (rows.length) node.append(heading(title, hint), ...found.draw(rows, options));
    };
    const isAbove = new Set(top);
    part("Most active", "", top, {});
    const n = intervals.counts.length, width = feature.statistics.maximum / n;
    const total = intervals.counts.reduce((a, b) => a + b, 0) || 1;
    let stop = intervals.rows.length;
    for (let i = n - 1; i >= 0; i--) {
      const rows = intervals.rows.slice(stop - intervals.sizes[i], stop);
      stop -= intervals.sizes[i];
      const title = `${show(i * width)} to ${show((i + 1) * width)}`, below = rows.filter((row) => !isAbove.has(row));
      const share = `${percent(intervals.counts[i] / total)} of the active ${units.many}`;
      if (rows.length && !below.length) node.append(heading(title, `${share}, see the most active ones`));
      part(title, share + (rows.length < intervals.counts[i] ? ", sampled" : ""), below, {});
    }
    part("At random", `sampled from all ${units.many} on which the feature is active`, random, {});
    part("Near misses", `inactive, but closest to active; on the left, ${NEAR_BY[general.near_by]}`, near.rows, { values: near.values });
    if (!node.querySelector(".example")) node.append(element("p", { class: "hint" }, `Never active on these ${units.many}.`));
    return node;
  },

  // A function that draws rows, once the tokens that it needs are there, and a legend.
  async lines(feature, put = () => {}) {
    const { top, random, intervals, near_misses: near, active } = feature.examples;
    const values = new Map();
    let row = 0;
    active.rows.forEach((step, i) => values.set(row += step, active.values[i]));
    const context = { feature, values, put, maximum: feature.statistics.maximum, changes: panels.effects.changes(feature) };
    context.strongest = Math.max(0.05, ...[...context.changes.values()].map(Math.abs));
    if (general.unit !== "image") await loadTokens([...top, ...random, ...intervals.rows, ...near.rows]);
    const draw = (rows, { values: shown = [], limit = Infinity }) =>
      general.unit === "image" ? [pictures(context, rows, shown)] : exampleLines(context, rows, shown).slice(0, limit);
    return { draw, legend: legendOf(context) };
  },
};

const NEAR_BY = { pre_activations: "the encoder's pre-activation", projections: "the projection on the atom, x·d" };

function scale(maximum) {
  const steps = [0, 0.25, 0.5, 0.75, 1];
  return element("span", { class: "scale", role: "img", "aria-label": `Shading: activation from 0 to ${show(maximum)}` },
    "0", element("span", { class: "ramp" }), show(maximum));
}

function legendOf({ feature, maximum, changes }) {
  return element("p", { class: "legend" }, element("span", {}, "activation ", scale(maximum)),
    general.unit === "token" ? element("span", {}, element("span", { class: "token centre" }, "token"), " the line's own") : null,
    changes.size ? element("span", {}, ...panels.effects.legend()) : null,
    general.unit === "token" ? element("span", { class: "hint" }, "click on a line for its whole context") : null);
}

function shade(node, value, maximum) {
  if (!(value > 0)) return;
  node.classList.add("on");
  node.style.setProperty("--a", maximum > 0 ? Math.min(1, value / maximum) : 0);
}

function tokenNode(context, row, name, centre) {
  const { values, maximum, changes, strongest, put } = context;
  const token = element("span", { class: "token", "data-tip": "" }, centre === null ? visibleLines(name) : visible(name));
  const value = values.get(row) || 0, change = changes.get(row - 1);
  shade(token, value, maximum);
  if (row === centre) token.classList.add("centre");
  if (change !== undefined && Math.abs(change) > 0.1 * strongest) token.classList.add(change > 0 ? "helped" : "hurt");
  token.tip = () => {
    const lines = [`“${visible(name)}”`, `activation ${show(value)}`];
    if (change !== undefined) lines.push(`the feature ${change > 0 ? "helped" : "hurt"} to predict it: ${signed(change)} nats`);
    return [...lines, `document ${stretchOf(row).document}, row ${row}`].join("\n");
  };
  token.hover = (inside) => put(inside && value > 0 ? value : null);
  return token;
}

// One line per passage: rows close to one that has a line already, and equal texts, are counted there.
function exampleLines(context, rows, shown) {
  const lines = [], seen = new Map();
  rows.forEach((row, i) => {
    const stretch = stretchOf(row);
    const near = shown.length ? null : lines.find((line) => line.stretch === stretch && Math.abs(line.row - row) <= 8);
    const first = Math.max(stretch.first, row - N_CONTEXT), stop = Math.min(stretch.first + stretch.length, row + N_CONTEXT + 1);
    const key = tokensOf(first, stop).join("\0") + "\0" + (row - first);
    const same = near || seen.get(key);
    if (same) { same.count++; return; }
    const line = { row, stretch, first, stop, count: 1, value: shown.length ? shown[i] : context.values.get(row) || 0 };
    lines.push(line);
    seen.set(key, line);
  });
  return lines.map((line) => exampleLine(context, line));
}

function exampleLine(context, { row, stretch, first, stop, count, value }) {
  const before = element("span", { class: "before" }), behind = element("span", { class: "behind" });
  const names = tokensOf(first, stop);
  names.forEach((name, k) => (first + k < row ? before : behind).append(tokenNode(context, first + k, name, row)));
  const tokens = element("span", { class: "tokens" }, before, behind);
  walkable(tokens, [...tokens.querySelectorAll(".token")], row - first);
  const isText = general.unit === "document";
  const more = element("button", { type: "button", class: "more", "aria-expanded": "false", title: isText ? "Whole text" : "Whole context", "aria-label": "Whole context" }, "⤢");
  const line = element("div", { class: "example" + (isText ? " whole-text" : "") },
    element("span", { class: "value" }, show(value)), tokens,
    element("span", { class: "count", title: count > 1 ? `${count} of these ${units.many}` : null }, count > 1 ? "×" + count : ""), more);
  const toggle = () => {
    const open = line.classList.toggle("open");
    more.setAttribute("aria-expanded", String(open));
    const next = line.nextElementSibling;
    if (next && next.classList.contains("context")) next.remove();
    if (open && !isText) line.after(wholeContext(context, row, stretch));
  };
  line.addEventListener("click", (event) => { if (!String(getSelection())) toggle(); });
  tokens.addEventListener("keydown", (event) => { if (event.key === "Enter") toggle(); });
  return line;
}

function wholeContext(context, row, { first, length, document: number }) {
  const low = Math.max(first, row - general.tokens.around), high = Math.min(first + length, row + general.tokens.around + 1);
  return element("div", { class: "context" },
    element("div", { class: "prose" }, ...tokensOf(low, high).map((name, k) => {
      const token = tokenNode(context, low + k, name, null);
      if (low + k === row) token.classList.add("centre");
      return token;
    })),
    element("p", { class: "hint" }, `document ${number}, rows ${low} to ${high - 1}`));
}

// -- pictures ------------------------------------------------------------------------------------

function pictures(context, rows, shown) {
  const seen = new Map();
  rows.forEach((row, i) => {
    const stretch = stretchOf(row);
    if (seen.has(stretch)) seen.get(stretch).count++;
    else seen.set(stretch, { row, count: 1, value: shown.length ? shown[i] : context.values.get(row) || 0 });
  });
  return element("div", { class: "pictures" }, ...[...seen].map(([stretch, { row, count, value }]) => {
    const { grid, pictures: images } = general.tokens;
    const figure = element("figure", { class: "example", tabindex: "0", "data-tip": "" },
      element("img", { src: "data:image/png;base64," + images[stretch.document], alt: `image ${stretch.document}` }),
      grid ? heatMap(context, stretch, row, grid) : null,
      element("figcaption", {}, show(value), count > 1 ? ` ×${count}` : ""));
    figure.tip = () => `image ${stretch.document}\nactivation ${show(value)}` + (count > 1 ? `\n${count} of these places` : "");
    figure.hover = (inside) => context.put(inside && value > 0 ? value : null);
    return figure;
  }));
}

function heatMap({ values, maximum }, { first }, row, [height, width]) {
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, class: "heat", preserveAspectRatio: "none", role: "img", "aria-label": "activation by place" });
  for (let k = 0; k < height * width; k++) {
    const value = values.get(first + k);
    const place = { x: k % width, y: Math.floor(k / width), width: 1, height: 1 };
    if (value > 0) svg.append(drawing("rect", { ...place, "fill-opacity": 0.25 + 0.6 * Math.min(1, value / maximum) }));
    if (first + k === row) svg.append(drawing("rect", { ...place, class: "chosen" }));
  }
  return svg;
}
