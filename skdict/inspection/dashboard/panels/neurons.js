// The neurons in a feature's atom.
panels.neurons = {
  order: 5,
  cards({ neurons }) {
    if (!neurons) return [];
    return [card("Neurons", "greatest weights of the atom",
      table(neurons.index.map((j, i) => [String(j), show(neurons.weight[i]), percent(neurons.share[i])]),
        [["neuron", false], ["weight", false], ["share", false]]),
      element("p", { class: "axis-name" }, "share of the sum of absolute weights"))];
  },
};
