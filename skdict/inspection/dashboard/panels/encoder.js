// How the encoder differs from the atom.
panels.encoder = {
  order: 8,
  facts({ encoder }) {
    if (!encoder) return [];
    return [
      ["enc·dec cosine", show(encoder.cosine) || "–", "Cosine of encoder row and atom. A low one is typical of features that are hardly ever active."],
      ["encoder bias", show(encoder.bias)],
    ];
  },
};
