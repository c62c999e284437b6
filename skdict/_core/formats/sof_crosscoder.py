"""science-of-finetuning's dictionary_learning: crosscoders, and its own batch top-k.

    x̃_l = (x_l - m_l) g_l;   f = relu(Σ_l x̃_l W_l + c), where f_j N_j > θ
    x̂_l = (f D_l + b_l) / g_l + m_l

with N_j from the norms of the decoder's rows, as code_normalization says. Rows are the layers, or
models, one after the other. dictionary.py of commit 173f7fa.
"""

import torch

from ..models.architectures import BatchTopK, ReLU
from .base import Format, Record, register
from .config import Config
from .tensors import FormatError, TorchTensors
from .weights import Weights, row_norms

TENSORS, OF_HUB, CONFIG = "ae.pt", "model.safetensors", "config.json"
# What the library adds to a scale before it divides by it.
EPS = 1e-8
# Values of code_normalization_id.
NORMALIZATIONS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}
COMPILED = "_orig_mod."


@register("sof_crosscoder")
class SofCrosscoder(Format):
    """Files of science-of-finetuning's dictionary_learning."""

    description = "science-of-finetuning: crosscoders and normalised batch top-k"
    looks = "ae.pt with code_normalization_id, or config.json and model.safetensors"

    @staticmethod
    def detect(files):
        state = files.peek(TENSORS) if files.ending(TENSORS) else files.peek(OF_HUB)
        if state is None:
            return False
        names = {name.replace(COMPILED, "") for name in state.names}
        decoder = [name for name in state.names if name.replace(COMPILED, "") == "decoder.weight"]
        is_stack = any(len(state.shape(name)) == 3 for name in decoder)
        return is_stack or {"activation_mean", "decoder.weight"} <= names

    @staticmethod
    def read(files, request):
        endings = (TENSORS,) if files.ending(TENSORS) else (OF_HUB,)
        name = files.one(*endings)
        request.refuse_layer(files.describe(name))
        state = _state(files, name)
        beside = name[: -len(endings[0])] + CONFIG
        config = files.json(beside) if beside in files else Config({}, state.where)
        for key in ("latent_processor", "encoder_layers"):
            config.expect(key)
        config = config.part("trainer") if "trainer" in config else config
        is_cross = len(state.shape("decoder.weight")) == 3
        read = _crosscoder if is_cross else _autoencoder
        weights, k, shape = read(state, config, request.components)
        state.ignore("target_rms", "activation_std", "k")
        state.check_all_taken()
        config.harmless("activation_dim", "norm_init_scale", "target_rms", "encoder_init_norm")
        config.harmless(
            "code_normalization", "threshold_beta", "threshold_start_step", "top_k_aux"
        )
        config.harmless("code_normalization_alpha_sae", "code_normalization_alpha_cc")
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=state.where),
            ReLU() if k is None else BatchTopK(min(k, len(weights.encoder))),
            source={"library": "science-of-finetuning", "config": config.provenance()},
            activation={"model": config.get("lm_name"), "layer_number": config.get("layer")},
            input_shape=shape if is_cross else None,
        )


def _state(files, name):
    """The tensors; names of a module that was compiled without what torch puts before them."""
    if name.endswith(OF_HUB):
        return files.safetensors(name)
    state = files.torch_tensors(name)
    plain = {str(key).replace(COMPILED, ""): value for key, value in state.items()}
    return TorchTensors(plain, state.where)


def _crosscoder(state, config, rows):
    """Parameters, with the layers' columns one after the other, and k."""
    encoder = state.take("encoder.weight", (None, None, None), rows=rows, axis=2)
    n_layers, d, n = state.shape("encoder.weight")
    decoder = state.take("decoder.weight", (n_layers, n, d), rows=rows, axis=1)
    n_selected = encoder.shape[2]
    k, threshold = _threshold(state)
    if threshold is not None:
        factor = _code_norms(state, config, decoder)
        limit = torch.finfo(torch.float32).max  # of latents that decode to nothing
        threshold = torch.where(factor > 0, threshold / factor, limit).clamp_max(limit)
    elif "code_normalization_id" in state:
        _normalization(state)
    bias = state.take("decoder.bias", (n_layers, d)).double().flatten()
    mean, scale, out = _normalizer(state, (n_layers, d))
    weights = Weights(
        encoder=encoder.reshape(n_layers * d, n_selected).T,
        encoder_bias=state.take("encoder.bias", (n,), rows=rows),
        decoder=decoder.permute(1, 0, 2).reshape(n_selected, n_layers * d),
        decoder_bias=bias + mean * out,
        offset=mean * scale,
        threshold=threshold,
        input_scale=scale,
        output_scale=out,
    )
    return weights, k, (n_layers, d)


def _autoencoder(state, config, rows):
    encoder, decoder, (n, d) = state.pair(rows)
    k, threshold = _threshold(state)
    bias = state.take("b_dec", (d,)).double()
    mean, scale, out = _normalizer(state, (d,))
    weights = Weights(
        encoder=encoder,
        encoder_bias=state.take("encoder.bias", (n,), rows=rows),
        decoder=decoder,
        decoder_bias=bias + mean * out,
        offset=bias + mean * scale,
        threshold=threshold,
        input_scale=scale,
        output_scale=out,
    )
    return weights, k, (d,)


def _threshold(state):
    """k, and θ or None where the largest of a batch have not been found yet."""
    if "threshold" not in state:
        return None, None
    shape = state.shape("threshold")
    if shape not in ((), (1,)):
        raise FormatError(
            f"{state.where}: threshold has shape {shape}: codes of each layer by itself "
            "(DECOUPLED) cannot be expressed here."
        )
    threshold = state.number("threshold")
    return state.count("k"), None if threshold < 0 else threshold


def _normalization(state):
    if "code_normalization_id" not in state:
        return "CROSSCODER"  # of files that are older than the choice
    name = NORMALIZATIONS.get(state.number("code_normalization_id"))
    if name in (None, "DECOUPLED"):
        raise FormatError(
            f"{state.where}: code_normalization_id means {name or 'nothing that is known'}, which "
            "cannot be expressed here."
        )
    return name


def _code_norms(state, config, decoder):
    """What codes are multiplied by before they are compared with θ: (n,), of (layers, n, d)."""
    kind = _normalization(state)
    of_layers = torch.stack([row_norms(layer) for layer in decoder])  # (layers, n)
    total, joint = of_layers.sum(dim=0), of_layers.norm(dim=0)
    if kind == "MIXED":
        of_joint = config.get("code_normalization_alpha_sae", 1.0, float)
        of_total = config.get("code_normalization_alpha_cc", 0.1, float)
        return of_joint * joint + of_total * total
    return {"CROSSCODER": total, "SAE": joint, "NONE": torch.ones_like(total)}[kind]


def _normalizer(state, shape):
    """m, g and what is multiplied back, of each column: float64. Without a mean: 0, 1 and 1."""
    n_columns = shape[0] * shape[1] if len(shape) == 2 else shape[0]
    ones = torch.ones(n_columns, dtype=torch.float64, device="cpu")
    if "activation_mean" not in state:
        return 0 * ones, ones, ones
    mean = state.take("activation_mean", shape, finite=False).double()
    std = state.take("activation_std", shape, finite=False)
    scale = state.take("activation_global_scale", finite=False).double()
    if mean.isnan().any() or std.isnan().any():
        return 0 * ones, ones, ones
    is_one = scale.shape == shape[:-1] and scale.isfinite().all() and (scale > 0).all()
    if not is_one or not mean.isfinite().all():
        raise FormatError(
            f"{state.where}: activation_mean and activation_global_scale must be finite, the "
            f"latter of shape {shape[:-1]} and above 0."
        )
    scale = scale[..., None].expand(shape).flatten()
    return mean.flatten(), scale, scale + EPS
