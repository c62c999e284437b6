"""llamascopium, the later Language-Model-SAEs: config.json with sae_type, and sae_weights.

    p = x̃ W + c;   z = p where g selects p ‖D_j‖ (or p), g one of relu, θ and the k largest

Version 2.0: models/sparse_dictionary.py, models/sae.py. Rows x̃ have norm √d each (token-wise), or
on average (dataset-wise, with the average norm among the tensors), or are as they are (inference).
"""

import math

from ..models.architectures import JumpReLU, ReLU, TopK
from ..normalization import RowNormalization
from .base import Format, Record, register
from .places import between_hooks
from .tensors import FormatError, TorchTensors
from .weights import Weights

CONFIG, TENSORS = "config.json", ("sae_weights.safetensors", "sae_weights.pt")
NORM = "dataset_average_activation_norm."
LOG_THRESHOLD = "activation_function.log_jumprelu_threshold"
REFUSED = {
    "crosscoder": "each head has its own gate, so that a latent has several codes",
    "clt": "each layer has its own encoder, and decoders to all later layers",
    "lorsa": "it replaces attention, and reads other positions too",
    "molt": "its latents are linear maps, not directions",
}
# Of training and of how it is computed.
HARMLESS = (
    "use_triton_kernel",
    "sparsity_threshold_for_triton_spmm_kernel",
    "jumprelu_threshold_window",
)


@register("llamascopium")
class Llamascopium(Format):
    """Files of llamascopium."""

    description = "llamascopium (the later Language-Model-SAEs): autoencoders and transcoders"
    looks = f"{CONFIG} with sae_type, {' or '.join(TENSORS)} with W_E"

    @staticmethod
    def detect(files):
        found = files.ending(*TENSORS)
        if len(found) != 1 or not files.ending(CONFIG):
            return False
        return "W_E" in _tensors(files, found[0])

    @staticmethod
    def read(files, request):
        name = files.one(*TENSORS)
        config = files.json(name[: name.rindex("sae_weights")] + CONFIG)
        tensors = _tensors(files, name)
        kind = config.need("sae_type", str)
        if kind in REFUSED:
            raise FormatError(
                f"{config.where}: sae_type={kind!r} cannot be expressed: {REFUSED[kind]}."
            )
        config.choice("sae_type", ("sae",))
        if config.get("use_glu_encoder", False, bool):
            raise FormatError(
                f"{config.where}: use_glu_encoder=true cannot be expressed: a second encoder "
                "multiplies the pre-activations (a GLU)."
            )
        hook = config.need("hook_point_in", str)
        activation = between_hooks(config, request, hook)
        hook_out = activation.get("hook_out", hook)
        weights, architecture = _weights(config, tensors, request, hook, hook_out)
        tensors.check_all_taken()
        config.get("dtype"), config.get("device")
        config.harmless(*HARMLESS)
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
            architecture,
            source={
                "library": "llamascopium",
                "scale": weights.input_scale,
                "config": config.provenance(),
            },
            activation=activation,
        )


def _tensors(files, name):
    if name.endswith(".safetensors"):
        return files.safetensors(name)
    value = files.torch(name)
    if not isinstance(value, TorchTensors):
        raise FormatError(f"{files.describe(name)} must hold tensors by name under 'sae'.")
    return value.part("sae")


def _weights(config, tensors, request, hook, hook_out):
    d = config.count("d_model")
    factor = config.get("expansion_factor", None, float)
    n = int(d * factor) if d is not None and factor is not None else None
    kind = config.choice("act_fn", ("relu", "jumprelu", "topk"))
    rows, k = request.components, config.count("top_k")
    if kind == "topk":
        if k is None:
            raise FormatError(f"{config.where} has no 'top_k', which act_fn='topk' needs.")
        request.refuse_components(config.where)
    has_bias = config.get("use_decoder_bias", True, bool)
    is_transcoder = hook_out != hook
    normalization, scale, scale_out = _scaling(config, tensors, hook, hook_out)
    threshold = None
    if kind == "jumprelu":
        threshold = tensors.take(LOG_THRESHOLD, (n,), rows=rows).double().exp()
    decoder = tensors.take("W_D", (n, d), rows=rows)
    weights = Weights(
        encoder=tensors.take("W_E", (d, n), rows=rows, axis=1).T,
        encoder_bias=tensors.take("b_E", (n,), rows=rows),
        decoder=decoder,
        decoder_bias=tensors.take("b_D", (decoder.shape[1],)) if has_bias else None,
        threshold=threshold,
        k=k if kind == "topk" else None,
        ranks_by_norm=config.get("sparsity_include_decoder_norm", True, bool),
        input_scale=scale,
        output_scale=scale_out,
        normalization=normalization,
        is_transcoder=is_transcoder,
    )
    architectures = {"relu": ReLU, "jumprelu": JumpReLU}
    return weights, TopK(k) if kind == "topk" else architectures[kind]()


def _scaling(config, tensors, hook, hook_out):
    """Row normalisation, and the factors of input and output."""
    kind = config.choice(
        "norm_activation", ("token-wise", "dataset-wise", "inference"), "dataset-wise"
    )
    names = [NORM + hook, NORM + hook_out]
    if kind != "dataset-wise":  # whatever is in them, perhaps memory that nobody has set
        tensors.ignore(*names)
    if kind == "inference":
        return None, 1.0, 1.0
    if kind == "token-wise":
        if hook_out != hook:
            raise FormatError(
                f"{config.where}: norm_activation='token-wise' of a transcoder cannot be "
                "expressed: what is predicted is in units of its own norm, which is not known."
            )
        return RowNormalization("row_norm"), 1.0, 1.0
    norms = [tensors.number(name) for name in names]
    for name, norm in zip(names, norms, strict=True):
        if not norm > 0:
            raise FormatError(f"{tensors.where}: {name} must be above 0, not {norm!r}.")
    config.need("d_model", int)
    root_d = math.sqrt(config.count("d_model"))
    return None, root_d / norms[0], root_d / norms[1]
