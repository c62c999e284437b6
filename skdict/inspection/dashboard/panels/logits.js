// The logits that a feature raises and lowers.
panels.logits = {
  order: 3,
  cards(feature) {
    if (!feature.logits) {
      return general.missing.length ? [card("Logits", "", ...general.missing.map((text) => element("p", { class: "hint" }, visible(text))))] : [];
    }
    const { raised, lowered, histogram: { low, high, counts } } = feature.logits;
    const step = (high - low) / counts.length, edge = (i) => low + i * step;
    const { svg } = bars(counts.map((count) => Math.log1p(count)), {
      name: "Histogram of the weights on logits", low, step, height: 30,
      kind: (i) => (edge(i) + step / 2 < 0 ? "less" : ""),
      tips: (i) => `${grouped(counts[i])} tokens of the vocabulary\nweight ${show(edge(i))} to ${show(edge(i + 1))}` });
    const strongest = Math.max(...[raised, lowered].flatMap(({ weights }) => weights.map(Math.abs)), 1e-12);
    const part = (name, { tokens, weights }, kind) => element("div", {}, element("h4", { class: kind }, name),
      element("ol", { class: "weights " + kind }, ...tokens.map((text, i) => {
        const row = element("li", {}, word(text), element("span", {}, show(weights[i])));
        row.style.setProperty("--w", Math.abs(weights[i]) / strongest);
        return row;
      })));
    return [card("Logits", general.logits_hint || "change per unit of activation",
      element("div", { class: "pair logits" }, part("▲ raised", raised, "more"), part("▼ lowered", lowered, "less")), svg)];
  },
};
