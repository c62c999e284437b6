// How often and how strongly a feature is active.
panels.statistics = {
  order: 1,
  cards(feature, { put }) {
    const { density, n_active, maximum, mean } = feature.statistics;
    const rows = [
      ["density", percent(density)],
      ["active on", `${grouped(n_active)} ${units.many}`],
      ["maximum", show(maximum)],
      ["mean if active", show(mean)],
    ];
    for (const panel of inOrder()) if (panel.facts) rows.push(...panel.facts(feature));
    return [
      card("Activity", "", facts(rows), densityChart(density)),
      this.charts(feature, put),
    ];
  },
  charts({ statistics: { maximum, histogram } }, put) {
    const step = maximum / histogram.length;
    const range = (i) => `${show(i * step)} to ${show((i + 1) * step)}`;
    const sums = histogram.map((count, i) => count * (i + 0.5) * step);
    const total = sums.reduce((a, b) => a + b, 0) || 1, number = histogram.reduce((a, b) => a + b, 0) || 1;
    const counts = bars(histogram.map((count) => Math.log1p(count)), { name: "Histogram of activations", low: 0, step,
      tips: (i) => `${range(i)}\n${grouped(histogram[i])} ${units.many}, ${percent(histogram[i] / number)}` });
    const shares = bars(sums, { name: "Share of the sum of activations by activation", low: 0, step, height: 40,
      tips: (i) => `${range(i)}\n${percent(sums[i] / total)} of all activation` });
    put((x) => { counts.put(x); shares.put(x); });
    return card("Activations", `${units.many}, on a logarithmic scale`, counts.svg,
      element("p", { class: "axis-name" }, "share of the sum of activations"), shares.svg);
  },
};

const power = (x) => percent(10 ** x);

function densityChart(density, extra = {}) {
  const { low, width, counts, n_dead } = general.dictionary.densities;
  const { svg } = bars(counts, {
    name: "Histogram of the densities of all features", low, step: width, format: power, height: 48,
    mark: density > 0 ? Math.log10(density) : null,
    tips: (i) => `${grouped(counts[i])} features are active on\n${power(low + i * width)} to ${power(low + (i + 1) * width)} of the ${units.many}`,
    ...extra,
  });
  return element("div", {}, svg, element("p", { class: "axis-name" },
    `density of all ${grouped(general.dictionary.n_components)} features; ${grouped(n_dead)} are never active`));
}
