// What a feature does for the prediction of the next token.
panels.effects = {
  order: 7,
  facts({ effects }) {
    if (!effects || effects.mean === null || effects.mean === undefined) return [];
    return [["effect", `${signed(effects.mean)} nats`,
      "Mean change of the log-probability of the next token, measured by ablation at the most active tokens: positive if the feature helps to predict it."]];
  },
  // By row of the active token, the change of the log-probability of the next one.
  changes(feature) {
    const found = new Map();
    (feature.effects ? feature.effects.at_top : []).forEach((value, i) => {
      if (value !== null) found.set(feature.examples.top[i], value);
    });
    return found;
  },
  legend: () => [
    element("span", { class: "token helped" }, "next"), " helped to predict", element("span", { class: "token hurt" }, "next"), " hurt",
  ],
};
