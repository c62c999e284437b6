"""SAELens of all ages: cfg.json and sae_weights.safetensors.

    x̃ = normalised(x) s - b (b if apply_b_dec_to_input);   p = x̃ W + c;   x̂ = (z D + b) / s

z is relu(p), p of the k largest p or |p|, p where p > θ, or gated. Version 6: saes/*.py; until 5
the configuration is flat, and an activation function is named beside the architecture.
"""

from itertools import pairwise

from ..models.architectures import AbsTopK, BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopK
from ..normalization import RowNormalization
from .base import Format, Record, register
from .config import Config
from .places import layer_number, module_and_side
from .sae_lens_writing import write
from .tensors import FormatError
from .weights import Weights

CONFIG, TENSORS = "cfg.json", "sae_weights.safetensors"
DENSITIES, SCALER = "sparsity.safetensors", "activation_scaler.json"
TOPK = {"topk": TopK, "abstopk": AbsTopK}
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
CHECKPOINTS = ("batchtopk", "matryoshka_batchtopk")  # exported, they are of "jumprelu"
KINDS = ("standard", *TOPK, "jumprelu", "gated", *TRANSCODERS, *CHECKPOINTS)
REFUSED = {
    "temporal": "attention over earlier rows predicts the codes of each",
    "matching_pursuit": "codes are found one after the other, without an encoder",
}
# Of training alone.
HARMLESS = (
    "decoder_init_norm",
    "lp_norm",
    "use_sparse_activations",
    "topk_threshold_lr",
    "jumprelu_init_threshold",
    "jumprelu_bandwidth",
    "jumprelu_sparsity_loss_mode",
    "jumprelu_tanh_scale",
    "jumprelu_ste_to_input",
    "mse_loss_normalization",
    "normalize_sae_decoder",
    "scale_sparsity_penalty_by_decoder_norm",
    "dead_feature_threshold",
    "decoder_heuristic_init_norm",
    "use_cached_activations",
    "cached_activations_path",
)
# Names of before version 6, and what is metadata since.
RENAMED = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
METADATA = (
    "model_name",
    "model_class_name",
    "hook_name",
    "hook_layer",
    "hook_head_index",
    "prepend_bos",
    "context_size",
    "seqpos_slice",
    "dataset_path",
    "neuronpedia_id",
    "model_from_pretrained_kwargs",
    "sae_lens_version",
    "sae_lens_training_version",
    "exclude_special_tokens",
)


@register("sae_lens")
class SAELens(Format):
    """Files of SAELens."""

    description = "SAELens of all ages: autoencoders, training checkpoints, transcoders"
    looks = f"{CONFIG}, {TENSORS}"
    writes = True
    scales = True
    write = staticmethod(write)

    @staticmethod
    def detect(files):
        return bool(files.ending(TENSORS)) and bool(files.ending(CONFIG))

    @staticmethod
    def read(files, request):
        name = files.one(TENSORS)
        folder = name[: -len(TENSORS)]
        config, tensors = files.json(folder + CONFIG), files.safetensors(name)
        if "metadata" not in config:
            config = _upgraded(config)
        metadata = config.part("metadata")
        activation = _activation(metadata)
        request.check_layer(activation["layer_number"], config.where)
        kind = config.need("architecture", str)
        if kind in REFUSED:
            raise FormatError(
                f"{config.where}: architecture={kind!r} cannot be expressed: {REFUSED[kind]}."
            )
        config.choice("architecture", KINDS)
        normalization, scale, cautions = _scaling(files, folder, config, request)
        weights = _weights(kind, config, tensors, request, scale)
        weights.normalization = normalization
        architecture, widths = _architecture(kind, config, metadata, weights, request)
        is_heads = config.choice("reshape_activations", ("none", "hook_z"), "none") == "hook_z"
        if is_heads:
            activation["heads"] = True
        config.get("dtype"), config.get("device")
        config.harmless(*HARMLESS)
        tensors.check_all_taken()
        version = metadata.get("sae_lens_version") or metadata.get("sae_lens_training_version")
        kept = {"config": config.provenance(), "metadata": metadata.value}
        if scale != 1:
            kept["scale"] = scale
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
            architecture,
            source={"library": "sae_lens", "library_version": version, **kept},
            activation=activation,
            attributes=_densities(files, folder, weights, request),
            input_shape=(None, None) if is_heads else None,
            group_sizes=widths and [b - a for a, b in pairwise([0, *widths])],
            cautions=cautions,
        )


def _weights(kind, config, tensors, request, scale):
    """The tensors of a kind, and what they mean."""
    d, n = config.count("d_in"), config.count("d_sae")
    is_transcoder = kind in TRANSCODERS
    rows = request.components
    if kind in TOPK:
        request.refuse_components(config.where)
    decoder = tensors.take("W_dec", (n, config.count("d_out") if is_transcoder else d), rows=rows)
    bias = tensors.take("b_dec", (decoder.shape[1],))
    weight = tensors.take("W_enc", (d, n), rows=rows, axis=1)
    subtracts = config.get("apply_b_dec_to_input", True, bool) and not is_transcoder

    def vector(name):
        return tensors.take(name, (n,), rows=rows).double()

    if kind == "gated":
        # active where x̃ W + b_gate > 0; then p = e^r (x̃ W) + b_mag is above b_mag - e^r b_gate
        factor, shift = vector("r_mag").exp(), vector("b_mag")
        parts = {
            "encoder_factor": factor,
            "encoder_bias": shift,
            "threshold": shift - factor * vector("b_gate"),
        }
    else:
        parts = {"encoder_bias": vector("b_enc")}
    if kind.startswith("jumprelu"):
        is_log = "log_threshold" in tensors
        parts["threshold"] = vector("log_threshold").exp() if is_log else vector("threshold")
    has_norms = kind in (*TOPK, *CHECKPOINTS)
    scales_by_norm = has_norms and config.get("rescale_acts_by_decoder_norm", False, bool)
    if kind in CHECKPOINTS:
        # p times the norms of D / s, as SAELens has it once s is folded
        threshold = tensors.number("topk_threshold")
        parts["threshold"] = threshold / scale if scales_by_norm else threshold
    if kind in TOPK:
        config.need("k", int)
        parts["k"] = config.count("k")
    has_skip = "skip" in kind
    return Weights(
        encoder=weight.T,
        decoder=decoder,
        decoder_bias=bias,
        offset=bias if subtracts else None,
        selection="absolute" if kind == "abstopk" else "positive",
        scales_by_norm=scales_by_norm,
        decoder_factor=_finetuned(config, tensors, n, rows),
        input_scale=scale,
        skip=tensors.take("W_skip", (decoder.shape[1], len(weight))) if has_skip else None,
        is_transcoder=is_transcoder,
        **parts,
    )


def _finetuned(config, tensors, n, rows):
    """Factors of codes of before version 6, which are in the file of some where they are all 1."""
    is_finetuned = config.get("finetuning_scaling_factor", False, bool)
    known = ("finetuning_scaling_factor", "scaling_factor")
    found = [name for name in known if name in tensors]
    if not found and not is_finetuned:
        return None
    factor = tensors.take(found[0] if found else known[0], (n,), rows=rows)
    if is_finetuned:
        return factor
    if not bool((factor == 1).all()):
        raise FormatError(
            f"{config.where} does not say finetuning_scaling_factor, but {tensors.where} has "
            f"{found[0]} with other values than 1: whether it is used is not known."
        )
    return None


def _scaling(files, folder, config, request):
    """Row normalisation, the factor of the input, and what to warn of."""
    kind = config.get("normalize_activations", "none", str)
    if kind == "covariance_whitening":
        raise FormatError(
            f"{config.where}: normalize_activations={kind!r} is not folded into this checkpoint. "
            "Save it with save_inference_model of SAELens, which does."
        )
    known = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")
    config.choice("normalize_activations", (*known, "constant_scalar_rescale"), "none")
    scale, cautions, rows = request.scale, [], None
    if kind == "layer_norm":
        rows = RowNormalization("layer_norm", eps=1e-5, ddof=1)
    elif kind == "constant_norm_rescale":
        rows = RowNormalization("row_norm")
    factor = config.get("activation_normalization_factor", None, float)
    if kind == "constant_scalar_rescale":
        factor = config.need("activation_normalization_factor", float)
    elif kind == "expected_average_only_in":
        factor = None
        if folder + SCALER in files:
            factor = files.json(folder + SCALER).get("scaling_factor", None, float)
        if factor is None and scale is None:
            cautions.append(
                f"{config.where}: this dictionary was trained on activations that were multiplied "
                "by a factor to have norm √d on average, which its files do not hold "
                f"(normalize_activations={kind!r}). None is applied, as by SAELens' "
                "load_from_disk; give it as scale=, if it is not folded into the weights."
            )
    else:
        factor = None
    if scale is not None and (rows is not None or factor not in (None, scale)):
        raise FormatError(
            f"{config.where}: normalize_activations={kind!r} says how activations are scaled: "
            f"leave scale={scale} out."
        )
    scale = scale if factor is None else factor
    if scale is not None and not scale > 0:
        raise FormatError(f"{config.where}: the factor of activations is {scale}, not positive.")
    return rows, 1.0 if scale is None else scale, cautions


def _architecture(kind, config, metadata, weights, request):
    """What can go on training it, and the widths of the prefixes of a Matryoshka."""
    if kind in TOPK:
        return TOPK[kind](weights.k), None
    trained = metadata.get("training_architecture") if kind == "jumprelu" else kind
    details = metadata.part("training_architecture_details") if kind == "jumprelu" else config
    if trained == "gated":
        return Gated(), None
    if trained in CHECKPOINTS and request.components is None:
        n = len(weights.encoder)
        k = min(max(1, round(details.get("k", 1, (int, float)))), n)
        widths = details.get("matryoshka_widths", None, list)
        if trained == "batchtopk" or not widths:
            return BatchTopK(k), None
        ends = [*widths, n] if widths[-1] != n else widths
        if not all(type(a) is int for a in ends) or not _rises([0, *ends]):
            raise FormatError(f"{details.where}: matryoshka_widths={widths} must rise up to {n}.")
        return Matryoshka(k, prefixes=tuple(end / n for end in ends)), ends
    has_threshold = kind.startswith("jumprelu") or kind in CHECKPOINTS
    return JumpReLU() if has_threshold else ReLU(), None


def _rises(numbers):
    return all(a < b for a, b in pairwise(numbers))


def _densities(files, folder, weights, request):
    """How often each latent was active in training, where that was saved."""
    if folder + DENSITIES not in files:
        return {}
    tensors = files.safetensors(folder + DENSITIES)
    rows = request.components
    expected = (None if rows is not None else len(weights.encoder),)
    logarithm = tensors.take("sparsity", expected, rows=rows)
    tensors.check_all_taken()
    return {"feature_density_": (10 ** logarithm.double()).clamp(0, 1).numpy()}


def _activation(metadata):
    """What the metadata says of the place that the dictionary was trained on."""
    hook, module = metadata.get("hook_name", None, str), metadata.get("hf_hook_name", None, str)
    layer, side = (None, None) if module is None else module_and_side(module)
    target = metadata.get("hf_hook_name_out", None, str)
    target, target_side = (None, None) if target is None else module_and_side(target)
    number = layer_number(hook)
    excluded = metadata.get("exclude_special_tokens", None, (bool, list))
    options = metadata.part("model_from_pretrained_kwargs")
    centred = options.get("center_writing_weights", False, bool)
    positions = metadata.get("seqpos_slice", None, list)
    return {
        "model": metadata.get("model_name", None, str),
        "model_revision": options.get("revision", None, str),
        "layer": layer,
        "side": side,
        "hook": hook,
        "hook_out": metadata.get("hook_name_out", None, str),
        "target_layer": target,
        "target_side": target_side,
        "layer_number": metadata.get("hook_layer", None, int) if number is None else number,
        "head": metadata.get("hook_head_index", None, int),
        "transform": "centre_rows" if centred else None,
        "context_size": metadata.get("context_size", None, int),
        "prepend_bos": metadata.get("prepend_bos", None, bool),
        "excluded_tokens": ["special"] if excluded is True else excluded or None,
        "positions": positions
        if positions and any(part is not None for part in positions)
        else None,
    }


def _upgraded(config):
    """The configuration that version 6 makes of one of before."""
    value = {}
    for key, part in config.value.items():
        name = RENAMED.get(key, key)
        if value.get(name) not in (None, part) and part is not None:
            raise FormatError(
                f"{config.where}: {key}={part!r} and {name}={value[name]!r} are the same key of "
                "different versions, with different values."
            )
        value[name] = part if part is not None else value.get(name)
    activation = value.pop("activation_fn", None) or "relu"
    options = value.pop("activation_fn_kwargs", None) or {}
    kind = value.get("architecture") or "standard"
    is_topk = activation == "topk"
    if activation not in ("relu", "topk"):
        raise FormatError(
            f"{config.where}: the activation function {activation!r} cannot be expressed. Known "
            "are 'relu' and 'topk'."
        )
    if not isinstance(options, dict) or set(options) - {"k"} or (is_topk and "k" not in options):
        raise FormatError(
            f"{config.where}: activation_fn_kwargs={options!r} of {activation!r} cannot be "
            "expressed: only the k of 'topk' is known, and it has to be there."
        )
    if is_topk != (kind == "topk") and (kind, is_topk) != ("standard", True):
        raise FormatError(
            f"{config.where}: architecture={kind!r} with the activation function {activation!r} "
            "is not known here."
        )
    value["architecture"] = "topk" if is_topk else kind
    if is_topk:
        value["k"] = options["k"]
    normalize = value.get("normalize_activations")
    if isinstance(normalize, bool):
        value["normalize_activations"] = "expected_average_only_in" if normalize else "none"
    hook = value.get("hook_name")
    if isinstance(hook, str) and hook.endswith("_z"):
        value.setdefault("reshape_activations", "hook_z")
    value["metadata"] = {key: value.pop(key) for key in METADATA if key in value}
    return Config(value, config.where)
