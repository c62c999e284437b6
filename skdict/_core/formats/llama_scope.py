"""Llama Scope: hyperparams.json and checkpoints/final.safetensors; and its successor R1-Distill.

With s = √d / (average norm of activations), n_j = ‖D_j / s_out‖ and a threshold in raw units:

    p = s x W + c;   z = n p where n p > θ;   x̂ = z (D / (s_out n)) + b / s_out

as its authors read it (Language-Model-SAEs of December 2024). SAELens leaves n out, so that other
latents are active: z = p where p > s θ.
"""

import math

from ..models.architectures import JumpReLU
from .base import Format, Record, register
from .places import between_hooks
from .tensors import FormatError
from .weights import Weights

CONFIG, TENSORS = "hyperparams.json", "checkpoints/final.safetensors"
R1_CONFIG, R1_TENSORS, R1_SCALE = "config.json", "sae_weights.safetensors", "info.json"
LOG_THRESHOLD = "log_jumprelu_threshold"
# Of training alone; top_k is of the training before the threshold.
HARMLESS = (
    "top_k",
    "bias_init_method",
    "decoder_bias_init_method",
    "decoder_exactly_fixed_norm",
    "init_decoder_norm",
    "init_encoder_norm",
    "use_batch_norm_mse",
    "use_decoder_bias",
    "jumprelu_threshold_window",
    "init_log_jumprelu_threshold_value",
    "sparsity_threshold_for_triton_spmm_kernel",
)


@register("llama_scope")
class LlamaScope(Format):
    """Files of Llama Scope, as its authors read them."""

    description = "Llama Scope, as its authors read it; Llama Scope R1-Distill"
    looks = f"{CONFIG}, {TENSORS}; or {R1_CONFIG}, {R1_TENSORS} with {LOG_THRESHOLD}"
    scales = True

    @staticmethod
    def detect(files):
        return (bool(files.ending(CONFIG)) and bool(files.ending(TENSORS))) or is_r1(files)

    @staticmethod
    def read(files, request):
        return _read_r1(files, request) if is_r1(files) else _read(files, request, True)


@register("llama_scope_sae_lens")
class LlamaScopeOfSAELens(Format):
    """Files of Llama Scope, as SAELens reads them."""

    description = "Llama Scope, as SAELens reads it: other latents are active. By format= alone"
    looks = f"{CONFIG}, {TENSORS}"

    @staticmethod
    def detect(files):
        return False

    @staticmethod
    def read(files, request):
        return _read(files, request, False)


def is_r1(files):
    """Whether files are of R1-Distill: the names are those of later files, the tensors are not."""
    found = files.ending(R1_TENSORS) if files.ending(R1_CONFIG) else []
    return len(found) == 1 and LOG_THRESHOLD in files.safetensors(found[0])


def _read(files, request, by_authors):
    name = files.one(CONFIG)
    folder = name[: -len(CONFIG)]
    if folder + TENSORS not in files:
        raise FormatError(f"{files.where} has {name}, but no {folder + TENSORS} beside it.")
    config, tensors = files.json(name), files.safetensors(folder + TENSORS)
    if request.scale is not None:
        raise FormatError(
            f"{config.where}: dataset_average_activation_norm says how activations are scaled: "
            f"leave scale={request.scale} out."
        )
    config.choice("norm_activation", ("dataset-wise",), "dataset-wise")
    if by_authors:
        config.expect("sparsity_include_decoder_norm", True)
    else:
        config.get("sparsity_include_decoder_norm")
    norms = config.part("dataset_average_activation_norm")
    config.need("d_model", int)
    root_d = math.sqrt(config.count("d_model"))
    scales = [root_d / _positive(norms, key) for key in ("in", "out" if "out" in norms else "in")]
    threshold = config.need("jump_relu_threshold", float)
    if by_authors:
        reading = {"threshold": threshold, "scales_by_norm": True, "output_scale": scales[1]}
    else:
        reading = {"threshold": threshold * scales[0]}
    return _record(config, tensors, request, {"input_scale": scales[0], **reading})


def _read_r1(files, request):
    config = files.json(files.one(R1_TENSORS)[: -len(R1_TENSORS)] + R1_CONFIG)
    tensors = files.safetensors(files.one(R1_TENSORS))
    config.expect("sae_type", "sae")
    config.get("norm_activation")  # what it says or not, the factor has to be known
    has_norms = config.get("sparsity_include_decoder_norm", False, bool)
    scale, beside = request.scale, files.ending(R1_SCALE)
    if scale is None and len(beside) == 1:
        scale = _positive(files.json(beside[0]), "norm_scaling_factor")
    if scale is None:
        raise FormatError(
            f"{config.where}: the files of Llama Scope R1-Distill do not hold the factor that "
            "activations were multiplied by. SAELens' list of releases has it as "
            "norm_scaling_factor: give it as scale=, or in a file info.json beside, as "
            '{"norm_scaling_factor": 1.0}.'
        )
    threshold = tensors.take(LOG_THRESHOLD).double().exp()
    if request.components is not None:
        threshold = threshold[request.components]
    reading = {"input_scale": scale, "threshold": threshold, "ranks_by_norm": has_norms}
    return _record(config, tensors, request, reading)


def _record(config, tensors, request, reading):
    """What both have in common: a linear encoder, a decoder, thresholds."""
    activation = between_hooks(config, request, config.get("hook_point_in", None, str))
    config.choice("act_fn", ("jumprelu",), "jumprelu")
    config.expect("use_glu_encoder", False)
    config.expect("apply_decoder_bias_to_pre_encoder", False)
    d, n = config.count("d_model"), config.count("d_sae")
    factor = config.get("expansion_factor", None, float)
    if n is None and d is not None and factor is not None:
        n = int(d * factor)
    rows = request.components
    decoder = tensors.take("decoder.weight", (None, n), rows=rows, axis=1).T
    has_bias = "decoder.bias" in tensors
    weights = Weights(
        encoder=tensors.take("encoder.weight", (n, d), rows=rows),
        encoder_bias=tensors.take("encoder.bias", (n,), rows=rows),
        decoder=decoder,
        decoder_bias=tensors.take("decoder.bias", (decoder.shape[1],)) if has_bias else None,
        is_transcoder="hook_out" in activation,
        **reading,
    )
    tensors.check_all_taken()
    config.get("dtype"), config.get("device")
    config.harmless(*HARMLESS)
    return Record(
        weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
        JumpReLU(),
        source={
            "library": "Language-Model-SAEs",
            "scale": reading["input_scale"],
            "config": config.provenance(),
        },
        activation=activation,
    )


def _positive(config, key):
    value = config.need(key, float)
    if not value > 0:
        raise FormatError(f"{config.where}: {key!r} must be above 0, not {value!r}.")
    return value
