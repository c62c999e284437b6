// The nearest features of the dictionary.
panels.neighbours = {
  order: 4,
  cards(feature) {
    const { cosine, correlation } = feature.neighbours;
    const part = (name, hint, found) => found && found.features.length
      ? element("div", {}, element("h4", { tip: () => hint, "data-tip": "" }, name), element("ol", { class: "near" },
        ...found.features.map((other, i) => element("li", {},
          element("span", { class: "amount" }, show(found.values[i], 2)),
          link(other), " ", element("bdi", { class: "name" }, short(nameOf(other))),
          labels.has(other) ? element("a", { class: "versus", href: `#compare-${feature.id}-${other}`, title: "Compare" }, "⇄") : null))))
      : null;
    return [card("Nearest features", "of all " + grouped(general.dictionary.n_components),
      element("div", { class: "neighbours" },
        part("by direction", "Cosine of the atoms.", cosine),
        part("by activity", "Correlation of the codes.", correlation)))];
  },
};
