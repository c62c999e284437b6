"""Weights of SAELens in skdict: the largest difference of codes and reconstructions.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/saelens_weights.py

SAELens' autoencoders with random weights, brought over as the page "Coming from SAELens" of the
user guide does it.
"""

import numpy as np
import torch
from sae_lens import (
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)

from skdict import SparseAutoencoderDictionary

SIZES = {"d_in": 16, "d_sae": 64, "dtype": "float64"}


def from_saelens(weights, config):
    kind = {"standard": "relu"}.get(config["architecture"], config["architecture"])
    dictionary = SparseAutoencoderDictionary(
        config["d_sae"], architecture=kind, n_nonzero_coefs=config.get("k")
    )
    dictionary.n_features_in_, dictionary.alpha_ = config["d_in"], 1.0
    dictionary.components_, dictionary.intercept_ = weights["W_dec"], weights["b_dec"]
    weight, bias = weights["W_enc"], weights.get("b_enc")
    if kind == "gated":
        scale = np.exp(weights["r_mag"])
        weight, bias = weight * scale, weights["b_mag"]
        dictionary.threshold_ = np.maximum(bias - scale * weights["b_gate"], 0)
    if "threshold" in weights:
        dictionary.threshold_ = weights["threshold"]
    if not config.get("apply_b_dec_to_input", True):
        bias = bias + weights["b_dec"] @ weight
    dictionary.encoder_coef_ = np.ascontiguousarray(weight.T)
    dictionary.encoder_intercept_ = bias
    return dictionary


def main():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, SIZES["d_in"], generator=generator, dtype=torch.float64) + 0.3
    print("| autoencoder | L0 | codes | reconstructions |\n|---|---|---|---|")
    for sae in (
        StandardSAE(StandardSAEConfig(**SIZES)),
        StandardSAE(StandardSAEConfig(apply_b_dec_to_input=False, **SIZES)),
        TopKSAE(TopKSAEConfig(k=5, rescale_acts_by_decoder_norm=True, **SIZES)),
        TopKSAE(TopKSAEConfig(k=5, **SIZES)),
        JumpReLUSAE(JumpReLUSAEConfig(**SIZES)),
        GatedSAE(GatedSAEConfig(**SIZES)),
    ):
        with torch.no_grad():
            for name, weight in sae.named_parameters():
                weight.normal_(std=0.3, generator=generator)
                if name == "threshold":
                    weight.abs_()
            reconstruction = sae.decode(sae.encode(x)).numpy()
            if not isinstance(sae, TopKSAE) or sae.cfg.rescale_acts_by_decoder_norm:
                sae.fold_W_dec_norm()
            codes = sae.encode(x).to_dense().numpy()
        weights = {name: tensor.numpy(force=True) for name, tensor in sae.state_dict().items()}
        dictionary = from_saelens(weights, sae.cfg.to_dict())
        found = dictionary.transform(x.numpy())
        of_codes = abs(found - codes).max()
        of_rows = abs(dictionary.inverse_transform(found) - reconstruction).max()
        name = f"{type(sae).__name__}, apply_b_dec_to_input={sae.cfg.apply_b_dec_to_input}"
        l0 = np.count_nonzero(codes) / len(codes)
        print(f"| {name} | {l0:.1f} | {of_codes:.1e} | {of_rows:.1e} |")


if __name__ == "__main__":
    main()
