// Texts that are shown whole, with the features that are active on each token.
const N_OF_TOKEN = 12; // features listed in the details of a token

panels.texts = {
  order: 9,
  async view(index) {
    if (!(index < general.texts.length)) return element("h2", {}, "This text does not exist.");
    const text = (await part("texts"))[index], { tokens, features, codes } = text;
    const aside = element("div", { class: "aside card" }, element("p", { class: "hint" }, "Click on a token to see its features."));
    const body = element("div", { class: "prose" });
    const nodes = tokens.map((name, k) => {
      const node = element("span", { class: "token" + (name.startsWith("\n") ? " break" : ""), role: "button", tabindex: "-1", "data-tip": "" }, visibleLines(name));
      node.tip = () => {
        const lines = features[k].slice(0, 5).map((j, i) => `${j} ${nameOf(j)}`.trimEnd() + `  ${show(codes[k][i])}`);
        return [`“${visible(name)}”`, ...(lines.length ? lines : ["no feature is active"])].join("\n");
      };
      return node;
    });
    body.append(...nodes);
    let chosen = null, place = null;
    // a code as a part of the feature's maximum; of one that the examples do not have, of 1
    const partOf = (j, code) => Math.min(1, code / (text.maxima[j] || code));
    const hint = element("p", { class: "legend" });
    const paint = () => {
      const values = tokens.map((_, k) => {
        if (chosen === null) return Math.max(0, ...features[k].map((j, i) => partOf(j, codes[k][i])));
        const i = features[k].indexOf(chosen);
        return i < 0 ? 0 : codes[k][i];
      });
      const top = chosen === null ? 1 : Math.max(1e-12, ...values);
      nodes.forEach((node, k) => { node.classList.remove("on"); node.style.removeProperty("--a"); shade(node, values[k], top); });
      hint.replaceChildren(chosen === null ? "shaded by the feature that is closest to its own maximum " : `shaded by feature ${chosen} `,
        scale(chosen === null ? 1 : top),
        ...(chosen === null ? [] : [element("button", { type: "button", onclick: () => { chosen = null; paint(); details(); } }, "all features")]));
    };
    const details = () => {
      if (place === null) return;
      const k = place, weaker = features[k].length - N_OF_TOKEN;
      const rows = features[k].slice(0, N_OF_TOKEN).map((j, i) => element("tr", { "aria-selected": String(j === chosen) },
        element("td", {}, link(j)), element("td", { class: "text" }, nameOf(j)), element("td", {}, show(codes[k][i])),
        element("td", {}, element("button", { type: "button", class: "shade", "aria-pressed": String(j === chosen), "aria-label": `Shade by feature ${j}`, title: "Shade the text by this feature",
          onclick: () => { chosen = j === chosen ? null : j; paint(); details(); } }, "◐"))));
      aside.replaceChildren(element("h3", {}, `Token ${k}: “${visible(tokens[k])}”`),
        features[k].length
          ? element("table", {}, element("thead", {}, element("tr", {}, element("th", {}, "feature"), element("th", { class: "text" }, "label"), element("th", {}, "activation"), element("th", {}, ""))), element("tbody", {}, ...rows))
          : element("p", { class: "hint" }, "No feature is active."),
        ...(weaker > 0 ? [element("p", { class: "hint" }, `and ${weaker} weaker ones`)] : []));
    };
    const choose = (node) => {
      body.querySelectorAll(".chosen").forEach((other) => other.classList.remove("chosen"));
      node.classList.add("chosen");
      place = nodes.indexOf(node);
      details();
    };
    body.addEventListener("click", (event) => { const node = event.target.closest(".token"); if (node) choose(node); });
    body.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(event.target);
    });
    walkable(body, nodes, 0);
    paint();
    return element("div", {}, element("h2", {}, titleOfText(index)), hint, element("div", { class: "reading" }, body, aside));
  },
};

const titleOfText = (index) => {
  const line = (general.texts[index] || "").trim().split("\n")[0].trim();
  return line ? visible(line.length > 48 ? line.slice(0, 47) + "…" : line) : `Text ${index}`;
};
