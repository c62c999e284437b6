"""circuit-tracer: a set of transcoders, one a layer, or a cross-layer transcoder.

Of a set layer_i.safetensors: p = x W + c; ẑ = z D + b (+ x W_skipᵀ), with z = relu(p), or
z = p [p > θ], where a negative θ lets negative entries through, or z = the k largest p of whatever
sign (version 0.5.0: transcoder/activation_functions.py, single_layer_transcoder.py; later
versions write activation and k into config.yaml). The transcoders of mwhanna are of this form.

A cross-layer transcoder has W_enc_i.safetensors and W_dec_i.safetensors (n, L - i, d): what is
read at layer i writes to the layers i to L - 1. One layer of it is read, a transcoder that writes
to those layers one after the other, with b of its own layer: what those of all layers
reconstruct adds up to what the whole does. The layers of mntss are of this form. Decoders are not
summed over layers, as some readers do: that is no layer's output.
"""

import re

from ..models.architectures import JumpReLU, ReLU, TopK
from .base import Format, Record, register
from .config import Config
from .places import file_of_layer
from .tensors import FormatError
from .weights import Weights

CONFIG = "config.yaml"
TRAINING = ("wandb-config.yaml", "wanb-config.yaml")  # one repository has it misspelt
ONE, ENCODER = "layer_*.safetensors", "W_enc_*.safetensors"
THRESHOLD = "activation_function.threshold"
ACTIVATIONS = ("relu", "jump_relu", "jumprelu", "topk")
# Modules of hooks in Hugging Face's names, by the family that the name of a model says.
PRE, POST, MLP = "pre_feedforward_layernorm", "post_feedforward_layernorm", "mlp"
NORM = "post_attention_layernorm"
HOOKS = {
    "gemma-[23]": {
        "hook_resid_mid": (PRE, "input"),
        "mlp.hook_in": (PRE, "output"),
        "ln2.hook_normalized": (PRE, "output"),
        "hook_mlp_out": (POST, "output"),
        "mlp.hook_out": (POST, "output"),
    },
    "llama|qwen": {
        "hook_resid_mid": (NORM, "input"),
        "mlp.hook_in": (NORM, "output"),
        "ln2.hook_normalized": (NORM, "output"),
        "hook_mlp_out": (MLP, "output"),
        "mlp.hook_out": (MLP, "output"),
    },
}


@register("circuit_tracer")
class CircuitTracer(Format):
    """Files of circuit-tracer."""

    description = "circuit-tracer (mwhanna, mntss): transcoders of a layer, layers of CLTs"
    looks = "layer_*.safetensors with W_enc, or W_enc_*.safetensors; config.yaml"

    @staticmethod
    def detect(files):
        if files.ending(ENCODER):
            return True
        names = files.ending(ONE)
        if names:
            return "W_enc" in files.tensor_names(names[0])
        return _names_others(files)

    @staticmethod
    def read(files, request):
        names, is_clt = files.ending(ENCODER), True
        if not names:
            names, is_clt = files.ending(ONE), False
        if not names:
            raise FormatError(_elsewhere(files, request.layer))
        pattern = r"W_enc_(\d+)\.safetensors" if is_clt else r"layer_(\d+)\.safetensors"
        if is_clt and len(names) > 1 and request.layer is None:
            raise FormatError(
                f"{files.where} is a cross-layer transcoder of {len(names)} layers, whose "
                "features all read one layer and write to several. That is not one dictionary: "
                "load the features of one layer with layer=."
            )
        name, layer = file_of_layer(files, names, pattern, request.layer)
        folder = name[: name.rfind("/") + 1]
        config = _configuration(files, folder, is_clt)
        take = _of_clt if is_clt else _of_set
        parts, tensors, n_targets = take(files, name, layer, request.components)
        rule, architecture = _rule(config, parts.pop("threshold"), tensors, files, folder, is_clt)
        if rule.get("k") is not None:
            request.refuse_components(tensors.where)
        weights = Weights(**parts, **rule, is_transcoder=True)
        activation = _activation(config, layer, n_targets if is_clt else None)
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
            architecture,
            source={"library": "circuit_tracer", "config": config.provenance()},
            activation=activation,
        )


def _of_set(files, name, layer, rows):
    """Parts of `Weights` of one transcoder, its tensors, and how many layers it writes to."""
    tensors = files.safetensors(name)
    weight = tensors.take("W_enc", (None, None), rows=rows)  # (n, d)
    n, d = tensors.shape("W_enc")
    atoms = tensors.take("W_dec", (n, None), rows=rows)
    width = atoms.shape[1]
    parts = {
        "encoder": weight,
        "encoder_bias": tensors.take("b_enc", (n,), rows=rows),
        "decoder": atoms,
        "decoder_bias": tensors.take("b_dec", (width,)),
        "skip": tensors.take("W_skip", (width, d)) if "W_skip" in tensors else None,
        "threshold": _threshold(tensors, THRESHOLD, n, rows),
    }
    tensors.check_all_taken()
    return parts, tensors, 1


def _of_clt(files, name, layer, rows):
    """As `_of_set`, of one layer of a cross-layer transcoder."""
    tensors = files.safetensors(name)
    other = name.replace("W_enc_", "W_dec_")
    if other not in files:
        raise FormatError(f"{files.where} has {name}, but not {other}, its decoder.")
    decoders = files.safetensors(other)
    weight = tensors.take(f"W_enc_{layer}", (None, None), rows=rows)
    n, _ = tensors.shape(f"W_enc_{layer}")
    atoms = decoders.take(f"W_dec_{layer}", (n, None, None), rows=rows)  # (n, targets, d)
    _, n_targets, width = atoms.shape
    own = tensors.take(f"b_dec_{layer}", (width,))
    bias = own.new_zeros(n_targets * width)
    bias[:width] = own  # the first target is the layer itself
    parts = {
        "encoder": weight,
        "encoder_bias": tensors.take(f"b_enc_{layer}", (n,), rows=rows),
        "decoder": atoms.flatten(1),
        "decoder_bias": bias,
        "threshold": _threshold(tensors, f"threshold_{layer}", n, rows),
    }
    tensors.check_all_taken()
    decoders.check_all_taken()
    return parts, tensors, n_targets


def _threshold(tensors, name, n, rows):
    """Of each latent (n,), or one number; None if there is none. Files may have (1, n) too."""
    if name not in tensors:
        return None
    if len(tensors.shape(name)) == 2:
        return tensors.take(name, (1, n), rows=rows, axis=1)[0]
    if tensors.shape(name) in ((), (1,)) and n != 1:
        return tensors.number(name)
    return tensors.take(name, (n,), rows=rows)


def _rule(config, threshold, tensors, files, folder, is_clt):
    """What of pre-activations is a code, as parameters of `Weights`, and the architecture."""
    found = "relu" if threshold is None else "jumprelu"
    said = config.get("activation")
    k = config.count("k")
    if said is None and found == "relu" and not is_clt:
        _check_is_relu(config, tensors, files, folder)
    rule = config.choice("activation", ACTIVATIONS, found).replace("jump_relu", "jumprelu")
    if (rule == "jumprelu") != (threshold is not None):
        has = "has a threshold" if threshold is not None else "has no threshold"
        raise FormatError(
            f"{config.where}: activation={said!r}, but {tensors.where} {has}. One of them is "
            "wrong, and it decides the codes."
        )
    if (rule == "topk") != (k is not None):
        raise FormatError(
            f"{config.where}: activation={said!r} with k={k!r} is not clear. Top-k needs "
            "'activation: topk' and k; the others have no k."
        )
    if rule == "topk":
        return {"k": k, "selection": "signed"}, TopK(k, nonnegative=False)
    if rule == "relu":
        return {}, ReLU()
    lets_through = bool((threshold < 0).any() if hasattr(threshold, "any") else threshold < 0)
    selection = "signed" if lets_through else "positive"
    return {"threshold": threshold, "selection": selection}, JumpReLU()


def _check_is_relu(config, tensors, files, folder):
    """Refuse transcoders without threshold of which nothing says that they are not top-k."""
    if config.value:
        return
    training = [folder + name for name in TRAINING if folder + name in files]
    for name in training:
        settings = files.yaml(name)
        odd = [key for key in settings.value if re.search(r"^k$|top_?k|activation", str(key))]
        if odd:
            raise FormatError(
                f"{settings.where} has {', '.join(map(repr, odd))}, and there is no {CONFIG} that "
                "says which latents are kept. Write one with 'activation: relu' or 'topk' and k."
            )
    if not training:
        raise FormatError(
            f"{tensors.where} has no threshold and no {CONFIG} beside it, so that it may be ReLU "
            f"or top-k, which give other codes. Load the folder that has {CONFIG}, and choose "
            "with layer=."
        )


def _configuration(files, folder, is_clt):
    """config.yaml beside the tensors; an empty one if there is none."""
    if folder + CONFIG not in files:
        return Config({}, f"no {folder}{CONFIG}")
    config = files.yaml(folder + CONFIG)
    config.expect("model_kind", "cross_layer_transcoder" if is_clt else "transcoder_set")
    config.get("scan"), config.get("transcoders")
    return config


def _names_others(files):
    """Whether the only thing is a configuration that says where transcoders are."""
    if not files.ending(CONFIG) or any(name.endswith((".pt", ".pth")) for name in files.names):
        return False
    try:
        config = files.yaml(files.ending(CONFIG)[0])
    except FormatError:
        return False
    return "model_kind" in config and "transcoders" in config


def _elsewhere(files, layer):
    """What to say of a configuration whose transcoders are in another repository."""
    config = files.yaml(files.one(CONFIG))
    places = config.get("transcoders", kinds=list)
    place = places[layer or 0] if places and (layer or 0) < len(places) else "another place"
    return (
        f"{config.where} says that the transcoder of layer {layer or 0} is {place}. Load that: "
        "the repository is what follows hf://, and what follows its name is path=."
    )


def _activation(config, layer, n_targets):
    """What is read and written; n_targets is None where that is the layer itself."""
    model = config.get("model_name", kinds=str)
    reads, writes = (config.get(f"feature_{end}_hook", kinds=str) for end in ("input", "output"))
    # its graphs leave out the first position, where activations are extreme
    activation = {"layer_number": layer, "excluded_positions": [0]}
    if model:
        activation["model"] = model
    if layer is None:
        return activation
    if reads:
        activation["hook"] = f"blocks.{layer}.{reads}"
    place = _place(model, reads, layer)
    if place is not None:
        activation["layer"], activation["side"] = place
        if reads == "ln2.hook_normalized":
            activation["transform"] = "divide_by_norm_weight"
    layers = [layer] if n_targets is None else range(layer, layer + n_targets)
    targets = [_place(model, writes, number) for number in layers]
    if None not in targets:
        modules, side = [module for module, _ in targets], targets[0][1]
        named = {"target_layer": modules[0]} if n_targets is None else {"target_layers": modules}
        activation |= {**named, "target_side": side}
    return activation


def _place(model, hook, layer):
    """Module and side of a hook, or None where they are not known."""
    for family, hooks in HOOKS.items():
        if model and hook in hooks and re.search(family, model.lower()):
            module, side = hooks[hook]
            return f"model.layers.{layer}.{module}", side
    return None
