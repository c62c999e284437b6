// Data, views and what the user does.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const general = read("general");
const units = { token: { one: "token", many: "tokens" }, document: { one: "text", many: "texts" }, image: { one: "place", many: general.tokens.grid ? "places" : "images" } }[general.unit];
const inOrder = () => Object.values(panels).sort((a, b) => a.order - b.order);

// -- data: in the page, or in scripts beside it that are loaded when they are needed --------------

const parts = new Map(), waiting = new Map();

function part(name) {
  if (!parts.has(name)) {
    parts.set(name, general.inline ? unpacked(document.getElementById(name).textContent) : new Promise((resolve, reject) => {
      waiting.set(name, resolve);
      document.head.append(element("script", { src: `data/${name}.js`, onerror: () => {
        parts.delete(name);
        reject(new Error(`The file data/${name}.js is missing beside this page.`));
      } }));
    }));
  }
  return parts.get(name);
}

// Parts are compressed JSON in letters.
function unpacked(letters) {
  const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// What the scripts call.
function arrived(name, letters) {
  waiting.get(name)(unpacked(letters));
  waiting.delete(name);
}

// -- features: the columns of the index as rows ----------------------------------------------------

const rows = general.index.id.map((id, place) => {
  const row = { place };
  for (const [name, column] of Object.entries(general.index)) row[name] = column[place];
  return row;
});
// Names often begin alike; what all of them share is left out.
const short = (text) => text && visible(text.replace(/^(?:the )?tokens? (?=\S)/, ""));
const labels = new Map(rows.map((row) => [row.id, row.label ? visible(row.label) : ""]));
const byId = new Map(rows.map((row) => [row.id, row]));
// Names of features that are mentioned on this page but not part of it.
const others = new Map(Object.entries(general.names).map(([j, name]) => [Number(j), visible(name)]));
const nameOf = (feature) => labels.get(feature) || others.get(feature) || "";
const link = (feature) => (labels.has(feature)
  ? element("a", { href: "#feature-" + feature }, String(feature))
  : element("span", { class: "hint", title: "not on this page" }, String(feature)));

async function featureOf(id) {
  const { place } = byId.get(id), shard = Math.floor(place / general.shard);
  return (await part("features-" + shard))[place % general.shard];
}

// -- tokens ------------------------------------------------------------------------------------------

// The last place in an ascending list whose value is at most x.
function placeIn(list, x) {
  let low = -1, high = list.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (list[middle] <= x) low = middle; else high = middle - 1;
  }
  return low;
}

const stretches = new Map(), chunks = new Map();

function stretchOf(row) {
  const k = placeIn(general.tokens.first, row);
  if (!stretches.has(k)) {
    stretches.set(k, { k, first: general.tokens.first[k], length: general.tokens.length[k], document: general.tokens.document[k] });
  }
  return stretches.get(k);
}

async function loadTokens(wanted) {
  const needed = new Set(wanted.map((row) => placeIn(general.tokens.chunk_starts, stretchOf(row).k)));
  await Promise.all([...needed].filter((c) => !chunks.has(c)).map(async (c) => {
    const chunk = await part("tokens-" + c), places = new Map();
    let place = 0;
    for (let k = general.tokens.chunk_starts[c]; k < (general.tokens.chunk_starts[c + 1] ?? general.tokens.first.length); k++) {
      places.set(k, place);
      place += general.tokens.length[k];
    }
    chunks.set(c, { ...chunk, places });
  }));
}

// Texts of the tokens of a stretch from one row to the one before another.
function tokensOf(first, stop) {
  const { k, first: start } = stretchOf(first);
  const { names, ids, places } = chunks.get(placeIn(general.tokens.chunk_starts, k));
  const place = places.get(k) - start;
  return ids.slice(place + first, place + stop).map((id) => names[id]);
}

// -- the list of features ------------------------------------------------------------------------------

const PAGE = 100; // rows of the list drawn at a time
const firstScorer = general.scorers[0];
const has = (name) => rows.some((row) => row[name] !== null && row[name] !== undefined && row[name].length !== 0);
const COLUMNS = [
  { key: "id", name: "feature", ascending: true },
  { key: "label", name: "label", text: true, ascending: true, shown: has("label") },
  { key: "score", name: firstScorer ? firstScorer.name : "score", tip: scoreHint(), shown: has("score") },
  { key: "density", name: "density", tip: `Share of the ${units.many} on which the feature is active.` },
  { key: "maximum", name: "max", tip: "Greatest activation." },
  { key: "effect", name: "effect", tip: "Mean change of the log-probability of the next token by the feature, in nats.", shown: has("effect") },
  { key: "words", name: "most active on", text: true, fixed: true, shown: has("words") },
  { key: "raised", name: "raises", text: true, fixed: true, shown: has("raised") },
].filter(({ shown }) => shown !== false);
const DEFAULT = { key: "rank", ascending: true };
let order = DEFAULT, listed = [], drawn = 0;

function scoreHint() {
  if (!firstScorer) return "";
  return firstScorer.chance === null ? `Score: ${firstScorer.name}.` : `Score: ${firstScorer.name}. Chance is ${show(firstScorer.chance)}.`;
}

function compare(a, b) {
  const x = a[order.key], y = b[order.key];
  if (x === null || y === null) return (x === null) - (y === null) || a.id - b.id; // null sorts last
  const by = typeof x === "string" ? x.localeCompare(y) : x - y;
  return (order.ascending ? by : -by) || a.id - b.id;
}

// What a search looks in, as it is and as it is displayed.
const findable = new Map(rows.map((row) => {
  const texts = [row.label || [], row.words || [], row.raised || []].flat();
  return [row.id, texts.flatMap((text) => [text, visible(text)]).join("\n").toLowerCase()];
}));
let contexts = null; // the examples' contexts of each feature, once they have been asked for

function isFound({ id }, sought) {
  const number = /^(?:#|feature\s*)?(\d+)$/.exec(sought);
  if (number && Number(number[1]) === id) return true;
  return findable.get(id).includes(sought) || Boolean(contexts && state.contexts.checked && (contexts.get(id) || "").includes(sought));
}

// Read the contexts of all features, part by part, so that the page stays usable.
async function readContexts() {
  contexts = new Map();
  for (const row of rows) {
    const feature = await featureOf(row.id), { top, intervals } = feature.examples;
    const wanted = [...top.slice(0, 10), ...intervals.rows];
    if (general.unit !== "image") {
      await loadTokens(wanted);
      const logits = feature.logits ? [...feature.logits.raised.tokens, ...feature.logits.lowered.tokens] : [];
      contexts.set(row.id, [...wanted.map((at) => {
        const { first, length } = stretchOf(at);
        return tokensOf(Math.max(first, at - N_CONTEXT), Math.min(first + length, at + N_CONTEXT + 1)).join("");
      }), ...logits].join("\n").toLowerCase());
    }
    if (row.place % 200 === 199) {
      state.count.textContent = `reading contexts, ${grouped(row.place + 1)} of ${grouped(rows.length)}`;
      await new Promise((resolve) => { setTimeout(resolve); });
    }
  }
}

const state = {}; // the controls of the list

function passes(row) {
  const density = row.density * 100, low = parseFloat(state.low.value), high = parseFloat(state.high.value);
  return (!state.alive.checked || row.density > 0) && !(density < low) && !(density > high)
    && (!state.named || !state.named.checked || row.label)
    && (!state.score || !(parseFloat(state.score.value) > 0) || row.score >= parseFloat(state.score.value))
    && (!state.effect || state.effect.value === "" || (state.effect.value === "helps" ? row.effect > 0 : row.effect < 0));
}

function list() {
  const sought = state.search.value.trim().toLowerCase();
  listed = rows.filter((row) => passes(row) && isFound(row, sought)).sort(compare);
  document.getElementById("rows").replaceChildren();
  drawn = 0;
  drawRows();
  const all = rows.length, n = general.dictionary.n_components;
  state.count.textContent = `${grouped(listed.length)} of ${grouped(all)} features${all < n ? ` (of ${grouped(n)} in the dictionary)` : ""}`;
  state.order.value = [...state.order.options].some(({ value }) => value === order.key) ? order.key : "";
  state.hint.hidden = order.key !== "rank";
  for (const head of document.querySelectorAll("#columns th[data-column]")) {
    const is = head.dataset.column === order.key;
    head.setAttribute("aria-sort", is ? (order.ascending ? "ascending" : "descending") : "none");
    const arrow = head.querySelector(".arrow");
    if (arrow) arrow.textContent = is ? (order.ascending ? "▲" : "▼") : "↕";
  }
  drawMap();
}

// Clicks with a modifier key are left to the browser: they open another tab or window.
const isPlain = (event) => !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);

function openRow(event) {
  if (!isPlain(event) || event.target.closest("a")) return;
  location.hash = "feature-" + event.currentTarget.dataset.feature;
}

const CELLS = {
  id: (row) => link(row.id),
  label: (row) => (row.label ? element("bdi", { class: "label", title: visible(row.label) }, short(row.label)) : ""),
  score: (row) => (row.score === null ? "" : element("span", { class: "score" }, show(row.score), meter(row.score))),
  density: (row) => percent(row.density),
  maximum: (row) => show(row.maximum),
  effect: (row) => (row.effect === null ? "" : signed(row.effect)),
  words: (row) => element("span", { class: "words" }, ...row.words.map(word)),
  raised: (row) => element("span", { class: "words" }, ...(row.raised || []).map(word)),
};

function meter(value) {
  const node = element("span", { class: "meter" });
  node.style.setProperty("--w", Math.max(0, Math.min(1, value)));
  return node;
}

function drawRows() {
  const body = document.getElementById("rows");
  for (const row of listed.slice(drawn, drawn + PAGE)) {
    body.append(element("tr", { "data-feature": row.id, onclick: openRow },
      ...COLUMNS.map(({ key, text }) => element("td", { class: (text ? "text " : "") + "c-" + key }, CELLS[key](row)))));
  }
  drawn = Math.min(drawn + PAGE, listed.length);
  const more = document.getElementById("more");
  more.hidden = drawn === listed.length;
  more.textContent = `Show ${grouped(Math.min(PAGE, listed.length - drawn))} more of ${grouped(listed.length)}`;
}

function heads() {
  return COLUMNS.map(({ key, name, text, ascending = false, fixed, tip }) => {
    const head = element("th", { class: (text ? "text " : "") + "c-" + key, "data-column": key, scope: "col" });
    if (fixed) { head.append(name); return head; }
    head.append(element("button", { type: "button", tip: tip ? () => tip : null, "data-tip": tip ? "" : null,
      onclick: () => { order = { key, ascending: order.key === key ? !order.ascending : ascending }; list(); } },
    name, " ", element("span", { class: "arrow", "aria-hidden": "true" }, "↕")));
    return head;
  });
}

function controls() {
  const input = (name, properties, ...children) => {
    state[name] = element(properties.tag || "input", { ...properties, tag: null, oninput: list }, ...children);
    return state[name];
  };
  const option = (value, text) => element("option", { value }, text);
  state.count = element("span", { id: "count", "aria-live": "polite" });
  state.hint = element("p", { class: "hint" }, `First named features that are neither dense (active on more than 5 % of the ${units.many}) nor rare (on fewer than ten), by score and effect; then those without a name; then the dense and the rare ones.`);
  const order_ = input("order", { tag: "select", "aria-label": "Order" }, option("rank", "useful first"),
    ...COLUMNS.filter(({ fixed }) => !fixed).map(({ key, name }) => option(key, name)));
  order_.addEventListener("input", () => {
    const column = COLUMNS.find(({ key }) => key === order_.value);
    order = column ? { key: column.key, ascending: Boolean(column.ascending) } : DEFAULT;
    list();
  }, { capture: true });
  const inContexts = general.unit === "image" ? null : element("label", {}, input("contexts", { type: "checkbox", id: "contexts" }), " in contexts and all logits");
  if (!inContexts) state.contexts = { checked: false };
  else state.contexts.addEventListener("input", async () => { if (state.contexts.checked && !contexts) { await readContexts(); list(); } });
  return [
    element("div", { class: "controls" },
      input("search", { id: "search", type: "search", placeholder: "Search labels, tokens, logits, numbers  ( / )", "aria-label": "Search features", autocomplete: "off", spellcheck: "false" }),
      inContexts, state.count),
    element("div", { class: "controls filters" },
      element("label", {}, "order ", order_),
      element("label", {}, "density ", input("low", { id: "low", type: "number", min: 0, max: 100, step: "any", placeholder: "0", "aria-label": "Least density in %" })),
      element("label", {}, "to ", input("high", { id: "high", type: "number", min: 0, max: 100, step: "any", placeholder: "100", "aria-label": "Greatest density in %" }), " %"),
      has("score") ? element("label", {}, `${firstScorer ? firstScorer.name : "score"} ≥ `, input("score", { id: "least-score", type: "number", min: 0, max: 1, step: 0.05, placeholder: "0" })) : null,
      has("effect") ? element("label", {}, "effect ", input("effect", { tag: "select", id: "effect" }, option("", "any"), option("helps", "helps"), option("hurts", "hurts"))) : null,
      has("label") ? element("label", {}, input("named", { id: "named", type: "checkbox" }), " named") : null,
      element("label", {}, input("alive", { id: "alive", type: "checkbox" }), " active"),
      element("button", { type: "button", id: "reset", onclick: reset }, "Reset")),
    state.hint,
  ];
}

function reset() {
  for (const name of ["search", "low", "high", "score", "effect"]) if (state[name]) state[name].value = "";
  for (const name of ["named", "alive", "contexts"]) if (state[name]) state[name].checked = false;
  order = DEFAULT;
  list();
}

// -- the dictionary as a whole ---------------------------------------------------------------------------

function overview() {
  const { l0, densities: { low, width } } = general.dictionary;
  const provenance = Object.entries(general.provenance).map(([name, value]) => [name, element("bdi", {}, typeof value === "number" ? show(value) : visible(String(value)))]);
  const chooseDensity = (i) => {
    state.low.value = Number((100 * 10 ** (low + i * width)).toPrecision(3));
    state.high.value = Number((100 * 10 ** (low + (i + 1) * width)).toPrecision(3));
    list();
  };
  const l0Chart = bars(l0.counts, { name: `Histogram of active features per ${units.one}`, low: l0.low, step: l0.width, height: 84, width: 400, ends: true,
    tips: (i) => `${grouped(l0.counts[i])} ${units.many} with ${l0.width === 1 ? i : `${i * l0.width} to ${(i + 1) * l0.width - 1}`} active features` });
  return element("div", { class: "overview" },
    element("dl", { class: "card provenance", "aria-label": "Where this comes from" },
      ...provenance.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
    card("Densities", "click on a bar to filter", densityChart(0, { onclick: chooseDensity, height: 84, width: 400 })),
    card("L0", `active features per ${units.one}`, l0Chart.svg,
      element("p", { class: "axis-name" }, `${grouped(general.dictionary.n_counted)} ${units.many}`)),
    mapCard());
}

let drawMap = () => {};

function mapCard() {
  const map = general.dictionary.map;
  if (!map) return null;
  const canvas = element("canvas", { id: "map", role: "img", "aria-label": "Map of the features by direction", "data-tip": "" });
  const span = (list) => { const low = Math.min(...list), high = Math.max(...list); return (v) => (v - low) / (high - low || 1); };
  const few = (list) => (list.length < 50000 ? list : list.filter((_, i) => i % 2 === 0));
  const sx = span(few(map.x)), sy = span(few(map.y));
  let near = null;
  const place = (i) => [4 + sx(map.x[i]) * (canvas.clientWidth - 8), 4 + (1 - sy(map.y[i])) * (canvas.clientHeight - 8)];
  drawMap = () => {
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    pen.scale(ratio, ratio);
    const shown = new Set(listed.map(({ id }) => id)), size = map.id.length > 2000 ? 1.5 : 2.5;
    for (const inside of [false, true]) {
      pen.fillStyle = style.getPropertyValue(inside ? "--more" : "--line");
      map.id.forEach((id, i) => {
        if (shown.has(id) !== inside) return;
        const [x, y] = place(i);
        pen.beginPath();
        pen.arc(x, y, size, 0, 7);
        pen.fill();
      });
    }
    if (near !== null) {
      const [x, y] = place(near);
      pen.strokeStyle = style.getPropertyValue("--less");
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x, y, 5, 0, 7);
      pen.stroke();
    }
  };
  const nearest = (event) => {
    const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    let found = null, least = 144;
    map.id.forEach((_, i) => {
      const [px, py] = place(i), far = (px - x) ** 2 + (py - y) ** 2;
      if (far < least) { least = far; found = i; }
    });
    return found;
  };
  canvas.tip = () => (near === null ? "" : `feature ${map.id[near]}\n${nameOf(map.id[near])}`.trim());
  canvas.addEventListener("mousemove", (event) => {
    const found = nearest(event);
    if (found === near) return;
    near = found;
    drawMap();
    hideTooltip();
    showTooltip(canvas);
  });
  canvas.addEventListener("mouseleave", () => { near = null; drawMap(); });
  canvas.addEventListener("click", (event) => {
    const found = nearest(event);
    if (found !== null) location.hash = "feature-" + map.id[found];
  });
  return card("Map", "click to open", canvas, map.name === "map" ? null : element("p", { class: "axis-name" }, `two ${map.name} of the atoms`));
}

// -- a feature -------------------------------------------------------------------------------------------

function scoresOf({ scores }) {
  if (!scores || !Object.keys(scores).length) return null;
  const baseline = { shuffled: "another feature's explanation", neuron: "a neuron" };
  return element("div", { class: "scores" }, ...general.scorers.map(({ name, chance }) => {
    const found = scores[name] || {}, value = found.score;
    if (value === null || value === undefined) return null;
    const marks = [["chance", chance], ["neuron", found.neuron], ["shuffled", found.shuffled], ["score", value]];
    const told = [["chance", chance], ["shuffled", found.shuffled], ["neuron", found.neuron]]
      .filter(([, x]) => x !== null && x !== undefined);
    return element("span", { class: "scorer", "data-tip": "", tip: () => [`${name} ${show(value)}`,
      ...told.map(([kind, x]) => `${kind === "chance" ? "chance" : `${kind}: ${baseline[kind]}`} ${show(x)}`)].join("\n") },
    element("strong", {}, name), " ", show(value), dots(marks, `${name} ${show(value)}`),
    element("small", {}, told.map(([kind, x]) => `${kind} ${show(x)}`).join(" · ")));
  }));
}

function steeringOf({ steering }) {
  if (!steering) return null;
  return element("section", {}, heading("Steering", "texts written with the feature added at a strength"),
    ...steering.strengths.map((strength, i) => element("div", { class: "steered" }, element("strong", {}, signed(strength)),
      element("div", {}, ...steering.texts[i].map((text) => element("p", { class: "prose" }, visibleLines(text)))))));
}

const isOn = (id) => byId.has(id);
const missingFeature = (id) => element("h2", {}, `Feature ${id} is not on this page. `, element("a", { href: "#index" }, "List"));

async function drawFeature(id) {
  if (!isOn(id)) return { title: `Feature ${id}`, nodes: [missingFeature(id)] };
  const feature = await featureOf(id), label = labels.get(id);
  const marks = [], put = (mark) => { if (typeof mark === "function") marks.push(mark); else marks.forEach((each) => each(mark)); };
  const i = listed.findIndex((row) => row.id === id);
  const step = (k, text) => element("a", listed[i + k] && i >= 0 ? { href: "#feature-" + listed[i + k].id, class: "button" } : { class: "button off" }, text);
  const against = element("form", { class: "against", onsubmit: (event) => {
    event.preventDefault();
    const other = parseInt(event.target.elements[0].value, 10);
    if (!Number.isNaN(other)) location.hash = `compare-${id}-${other}`;
  } }, element("input", { type: "number", min: 0, placeholder: "compare with …", "aria-label": "Compare with feature" }), element("button", {}, "⇄"));
  const cards = inOrder().flatMap((panel) => (panel.cards ? panel.cards(feature, { put }) : []));
  const main = [];
  for (const panel of inOrder()) if (panel.main) main.push(await panel.main(feature, { put }));
  return {
    title: label ? `Feature ${id}: ${label}` : `Feature ${id}`,
    nodes: [
      element("div", { class: "head" }, element("h2", {}, `Feature ${id}`, label ? ": " : "", element("bdi", {}, label)),
        element("div", { class: "steps" }, step(-1, "‹ previous (k)"), step(1, "next (j) ›"), against)),
      scoresOf(feature), element("div", { class: "cards" }, ...cards), ...main, steeringOf(feature),
    ],
  };
}

// -- two features -----------------------------------------------------------------------------------------

async function drawCompare(a, b) {
  const title = `Features ${a} and ${b}`;
  const missing = [a, b].filter((id) => !isOn(id));
  if (missing.length) return { title, nodes: missing.map(missingFeature) };
  const both = await Promise.all([featureOf(a), featureOf(b)]);
  const near = (kind) => {
    for (const [one, other] of [[both[0], b], [both[1], a]]) {
      const found = one.neighbours && one.neighbours[kind], i = found ? found.features.indexOf(other) : -1;
      if (i >= 0) return show(found.values[i]);
    }
    return "not among the ten nearest";
  };
  const shared = (words) => words(both[0]).filter((text) => words(both[1]).includes(text));
  const tokens = shared(({ id }) => byId.get(id).words || []), raised = shared(({ logits }) => (logits ? logits.raised.tokens : []));
  const lists = (texts) => (texts.length ? element("span", { class: "words" }, ...texts.map(word)) : "none");
  const together = facts([["cosine of atoms", near("cosine")], ["correlation of codes", near("correlation")],
    ["active on both", lists(tokens)], ["both raise", lists(raised)]]);
  const sides = await Promise.all(both.map(async (feature) => {
    const marks = [], put = (mark) => { if (typeof mark === "function") marks.push(mark); else marks.forEach((each) => each(mark)); };
    const cards = [panels.statistics, panels.logits].flatMap((panel) => panel.cards(feature, { put }));
    const found = await panels.examples.lines(feature, put);
    return element("div", { class: "side" },
      element("h3", { class: "name" }, element("a", { href: "#feature-" + feature.id }, `Feature ${feature.id}`), " ", element("bdi", {}, labels.get(feature.id))),
      scoresOf(feature), element("div", { class: "cards" }, ...cards), element("div", { class: "examples" }, found.legend, ...found.draw(feature.examples.top, { limit: 10 })));
  }));
  return { title, nodes: [element("h2", {}, title), element("section", { class: "card" }, together), element("div", { class: "sides" }, ...sides)] };
}

// -- navigation --------------------------------------------------------------------------------------------

const title = document.title;
const views = ["index", "feature", "compare", "text"];
let shownView = null, indexScroll = 0, visits = 0, pending = 0;

function where() {
  const found = /^#(?:(feature|text)-(\d+)|compare-(\d+)-(\d+))$/.exec(location.hash);
  if (!found) return ["index"];
  return found[1] ? [found[1], Number(found[2])] : ["compare", Number(found[3]), Number(found[4])];
}

async function content(view, a, b) {
  if (view === "feature") return drawFeature(a);
  if (view === "compare") return drawCompare(a, b);
  return { title: titleOfText(a), nodes: [await panels.texts.view(a)] };
}

async function go() {
  const [view, ...which] = where(), visit = ++visits;
  if (shownView === "index") indexScroll = scrollY;
  hideTooltip();
  let found = { title: "", nodes: null };
  if (view !== "index") {
    pending++;
    try {
      found = await content(view, ...which);
    } catch (error) {
      found = { title: "Not read", nodes: [element("h2", {}, "This could not be read."), element("p", {}, String(error.message))] };
    } finally {
      pending--;
    }
    if (visit !== visits) return; // the user has gone on
  }
  const node = document.getElementById(view + "-view");
  if (found.nodes) node.replaceChildren(...found.nodes.filter(Boolean));
  for (const each of views) document.getElementById(each + "-view").hidden = each !== view;
  document.title = found.title ? `${found.title} – ${title}` : title;
  if (shownView !== null) focusHeading(node);
  markLink();
  if (view === "index") drawMap();
  scrollTo(0, view === "index" ? indexScroll : 0);
  shownView = view;
}

// The heading of a new view gets the focus, unless the focus is already inside the view.
function focusHeading(view) {
  if (view.contains(document.activeElement)) return;
  const found = view.querySelector("h2") || document.querySelector("h1");
  found.tabIndex = -1;
  found.focus({ preventScroll: true });
}

function markLink() {
  for (const each of document.querySelectorAll("header nav a")) {
    const here = each.hash === (location.hash || "#index");
    each.setAttribute("aria-current", here ? "page" : "false");
    if (here) each.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function step(k) {
  const [view, id] = where();
  const i = view === "feature" ? listed.findIndex((row) => row.id === id) + k : 0;
  if (listed[i]) location.hash = "feature-" + listed[i].id;
}

function random() {
  const [view, id] = where(), from = listed.filter((row) => row.density > 0 && !(view === "feature" && row.id === id));
  if (from.length) location.hash = "feature-" + from[Math.floor(Math.random() * from.length)].id;
}

// In the iframe of a notebook the browser would resolve "#index" in the notebook, so handle it here.
function follow(event) {
  const anchor = event.target.closest("a");
  if (!anchor || !anchor.hash || !isPlain(event)) return;
  event.preventDefault();
  location.hash = anchor.hash;
}

function leave() {
  if (!tooltip.hidden) { hideTooltip(); return; }
  location.hash = "index";
  state.search.blur();
}

async function search() {
  location.hash = "index";
  await go();
  state.search.focus();
  state.search.select();
}

document.addEventListener("click", follow);
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") { leave(); return; }
  if (event.target.id === "search" && event.key === "Enter" && listed.length) location.hash = "feature-" + listed[0].id;
  if (["INPUT", "SELECT"].includes(event.target.tagName) && event.target.type !== "checkbox") return;
  if (event.key === "/") { event.preventDefault(); search(); }
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
  if (event.key === "r") random();
});

// -- dark and light ------------------------------------------------------------------------------------------

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
  drawMap();
}

// -- start -----------------------------------------------------------------------------------------------------

setTheme(remembered());
document.getElementById("index-view").append(overview(), ...controls(),
  element("table", { class: "list" }, element("thead", {}, element("tr", { id: "columns" }, ...heads())), element("tbody", { id: "rows" })),
  element("button", { type: "button", id: "more", hidden: "", onclick: drawRows }, "More"));
document.getElementById("theme").addEventListener("click", switchTheme);
document.getElementById("random").addEventListener("click", random);
general.texts.forEach((_, i) => {
  document.getElementById("text-links").append(element("a", { href: "#text-" + i, class: "text-link" }, titleOfText(i)));
});
addEventListener("hashchange", go);
addEventListener("resize", () => drawMap());
history.scrollRestoration = "manual"; // the views share one page
list();
go();
