"""Kissane's crosscoders and attention SAEs, which are like those of Nanda.

Crosscoder, cc_weights.pt and cfg.json: z = relu(Σ_l x_l W_l + c), x̂_l = z D_l + b_l. Its rows have
been scaled to a mean norm of √d for each model, by factors that are not in the files.
Attention SAE, NAME.pt and NAME_cfg.json: z = relu((x - b) W + c), the heads one after the other.
"""

from ..models.architectures import ReLU
from .base import Format, Record, register
from .tensors import FormatError
from .weights import Weights

OF_CROSSCODER = "*cc_weights.pt"
TENSORS = frozenset(("W_enc", "W_dec", "b_enc", "b_dec"))
# Keys that do not matter for codes.
OF_TRAINING = (
    "dec_init_norm",
    "anthropic_neuron_resample_scale",
    "resample_scheme",
    "resample_factor",
    "b_dec_init",
    "l1_coeff",
    "dict_mult",
    "buffer_mult",
)


@register("ckkissane")
class Kissane(Format):
    """Files of the crosscoder and of the attention SAEs."""

    description = "Kissane: crosscoders of two models, SAEs of attention outputs"
    looks = "cc_weights.pt, cfg.json; or NAME.pt, NAME_cfg.json"

    @staticmethod
    def detect(files):
        if files.ending(OF_CROSSCODER):
            return True
        names = _attention(files)
        state = files.peek(names[0]) if len(names) == 1 else None
        return state is not None and set(state.names) == TENSORS

    @staticmethod
    def read(files, request):
        names = files.ending(OF_CROSSCODER) or _attention(files)
        name = names[0] if len(names) == 1 else files.one(OF_CROSSCODER, "*.pt")
        described = files.describe(name)
        request.refuse_layer(described)
        state = files.torch_tensors(name)
        is_cross = name.endswith(OF_CROSSCODER[1:])
        beside = name[: name.rfind("/") + 1] + "cfg.json" if is_cross else _config_of(name)
        config = files.json(beside)
        weights, shape = (_crosscoder if is_cross else _autoencoder)(state, config, request)
        state.check_all_taken()
        config.harmless(*OF_TRAINING)
        hook = config.get("hook_point" if is_cross else "act_name", None, str)
        hook = hook or _hook(config)
        cautions = []
        if is_cross:
            cautions.append(
                f"{described} was trained on activations that were scaled to a mean norm of "
                f"√{shape[1]} for each model, by factors that are not in the files. Scale yours."
            )
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=state.where),
            ReLU(),
            source={"library": "ckkissane", "config": config.provenance()},
            activation={
                "model": config.get("model_name"),
                "hook": hook,
                "layer_number": config.get("layer"),
                "heads": not is_cross and "hook_z" in (hook or ""),
                "context_size": config.get("seq_len"),
            },
            input_shape=shape,
            cautions=cautions,
        )


def _config_of(name):
    return name.removesuffix(".pt") + "_cfg.json"


def _attention(files):
    """Names of the weights that have a configuration of their own."""
    return [name for name in files.ending("*.pt") if _config_of(name) in files]


def _hook(config):
    """The name of the hook, of configurations that have its parts."""
    site, layer = config.get("site", None, str), config.get("layer", None, int)
    if site is None or layer is None:
        return None
    places = {"z": "attn.hook_z", "post": "mlp.hook_post"}
    return f"blocks.{layer}.{places.get(site, f'hook_{site}')}"


def _crosscoder(state, config, request):
    rows = request.components
    encoder = state.take("W_enc", (None, None, None), rows=rows, axis=2)
    n_models, d, n = state.shape("W_enc")
    for key, found in (("d_in", d), ("dict_size", n)):
        _check(state, config, key, found)
    decoder = state.take("W_dec", (n, n_models, d), rows=rows)
    weights = Weights(
        encoder=encoder.reshape(n_models * d, -1).T,
        encoder_bias=state.take("b_enc", (n,), rows=rows),
        decoder=decoder.reshape(-1, n_models * d),
        decoder_bias=state.take("b_dec", (n_models, d)).flatten(),
    )
    return weights, (n_models, d)


def _autoencoder(state, config, request):
    rows = request.components
    encoder, decoder, (n, d) = state.pair(rows)
    for key, found in (("act_size", d), ("dict_size", n)):
        _check(state, config, key, found)
    bias = state.take("b_dec", (d,))
    weights = Weights(
        encoder=encoder,
        encoder_bias=state.take("b_enc", (n,), rows=rows),
        decoder=decoder,
        decoder_bias=bias,
        offset=bias,
    )
    return weights, None


def _check(state, config, key, found):
    if config.count(key, found) != found:
        raise FormatError(
            f"{config.where}: {key}={config.get(key)}, but {state.where} has {found} of them."
        )
