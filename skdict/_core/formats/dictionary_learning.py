"""dictionary_learning of Marks, Karvonen and Mueller: ae.pt and config.json of a trainer.

AutoEncoder and BatchTopK z = jump((x - b) W + c, θ), AutoEncoderTopK its k largest instead;
AutoEncoderNew and JumpReluAutoEncoder without b; GatedAutoEncoder
z = [(x - b) W + b_gate > 0] relu(((x - b) W) e^r + b_mag). Version 0.1.0: dictionary.py, trainers.
Files that were saved during training have numbers of activations divided by norm_factor.
"""

import itertools
import math

import torch

from ..models.architectures import BatchTopK, Gated, JumpReLU, Matryoshka, ReLU, TopK
from ..models.architectures.matryoshka import prefix_ends
from .base import Format, Record, register
from .config import Config
from .tensors import FormatError
from .weights import Weights
from .writing import check_holds, exported, write_json, write_torch

CONFIG, TENSORS = "config.json", "ae.pt"
# What a file of the same name by another library has.
OF_OTHERS = {
    "activation_rescale_factor",
    "normalize_to_sqrt_d",
    "code_normalization_id",
    "activation_mean",
}
# Keys of trainers and buffers that do not matter for codes.
OF_TRAINING = (
    "threshold_beta",
    "threshold_start_step",
    "top_k_aux",
    "sparsity_function",
    "norm_factor",
    "group_sizes",
    "max_activation_norm_multiple",
    "normalize_activations",
)
TOP_K = ("AutoEncoderTopK", "BatchTopKSAE")


@register("dictionary_learning")
class DictionaryLearning(Format):
    """Files of dictionary_learning."""

    description = "dictionary_learning: all trainers, and backups of training"
    looks = "ae.pt, config.json"
    writes = True

    @staticmethod
    def detect(files):
        state = files.peek(TENSORS)
        if state is None:
            return False
        if isinstance(state.value.get("ae"), dict):
            return True
        if OF_OTHERS & set(state) or not {"decoder.weight", "W_dec"} & set(state):
            return False
        return "W_dec" in state or len(state.shape("decoder.weight")) == 2

    @staticmethod
    def read(files, request):
        name = files.one(TENSORS)
        request.refuse_layer(files.describe(name))
        state = files.torch_tensors(name)
        beside = name[: -len(TENSORS)] + CONFIG
        config = files.json(beside) if beside in files else Config({}, state.where)
        trainer, buffer = config.part("trainer"), config.part("buffer")
        factor, backup = 1.0, {}
        if isinstance(state.value.get("ae"), dict):
            factor, backup = _norm_factor(state), {"step": state.value.get("step")}
            if not trainer.value and isinstance(state.value.get("config"), dict):
                trainer = Config(state.value["config"], f"{state.where}: config")
            state = state.part("ae")
        parts, architecture, groups = _parts(state, trainer, request)
        state.check_all_taken()
        trains_transcoder = buffer.get("io") == "in_and_out"
        weights = Weights(**parts, is_transcoder=trains_transcoder)
        activation = _activation(trainer, buffer)
        cautions = []
        if factor != 1 and request.units == "unit":  # in units of the activations themselves
            weights.input_scale = 1 / factor
        elif factor != 1:
            activation["scale"] = 1 / factor
            cautions.append(
                f"{state.where} was saved during training, on activations divided by norm_factor="
                f"{factor:.6g}. Multiply yours by activation_['scale'], or load it with "
                "units='unit', which takes activations as they are."
            )
        provenance = _provenance(config, trainer, buffer)
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=state.where),
            architecture,
            source={"library": "dictionary_learning", "config": provenance, **backup},
            activation=activation,
            group_sizes=groups,
            cautions=cautions,
        )

    @staticmethod
    def write(record, folder):
        state, extra, name = _state(record)
        n, d = record.dictionary.shape
        activation = record.activation
        trainer = {
            "dict_class": name,
            "activation_dim": d,
            "dict_size": n,
            **extra,
            "layer": activation.get("layer_number"),
            "lm_name": activation.get("model"),
            "submodule_name": activation.get("layer"),
        }
        side = {"output": "out", "input": "in"}.get(activation.get("side"))
        write_torch(folder / TENSORS, state)
        write_json(folder / CONFIG, {"trainer": trainer, "buffer": {"d_submodule": d, "io": side}})


def _norm_factor(state):
    factor = state.value.get("norm_factor", 1.0)
    factor = 1.0 if factor is None else factor
    if torch.is_tensor(factor) and factor.numel() == 1:
        factor = factor.item()
    if not isinstance(factor, int | float) or not (math.isfinite(factor) and factor > 0):
        raise FormatError(f"{state.where}: norm_factor must be a number above 0, not {factor!r}.")
    return float(factor)


def _parts(state, trainer, request):
    """Parameters of `Weights`, the architecture, and the sizes of groups."""
    name = trainer.get("dict_class", None, str)
    rows = request.components
    if "b_dec" in state and "encoder.weight" in state:
        if name not in TOP_K:
            raise FormatError(
                f"{state.where} may be of an {TOP_K[0]} or a {TOP_K[1]}: {trainer.where} must say "
                f"which with 'dict_class', but has {name!r}. Lay the trainer's {CONFIG} beside it."
            )
        return _top_k(state, trainer, request, name)
    kinds = {  # the tensor that tells it from the others
        "group_sizes": ("MatryoshkaBatchTopKSAE", _matryoshka),
        "W_enc": ("JumpReluAutoEncoder", _jump_relu),
        "r_mag": ("GatedAutoEncoder", _gated),
        "decoder.bias": ("AutoEncoderNew", _april),
        "bias": ("AutoEncoder", _standard),
    }
    for tensor, (kind, read) in kinds.items():
        if tensor in state:
            known = (kind, "MatroyshkaBatchTopKSAE") if tensor == "group_sizes" else (kind,)
            trainer.choice("dict_class", known, kind)
            return read(state, trainer, rows)
    raise FormatError(
        f"{state.where} has no tensor by which a class of dictionary_learning is known; it has "
        f"{state.listed()}."
    )


def _standard(state, trainer, rows):
    encoder, decoder, (n, d) = state.pair(rows)
    bias = state.take("bias", (d,))
    bias_of_encoder = state.take("encoder.bias", (n,), rows=rows)
    return _named(encoder, bias_of_encoder, decoder, bias, bias), ReLU(), None


def _april(state, trainer, rows):
    encoder, decoder, (n, _) = state.pair(rows)
    bias = state.take("decoder.bias", (decoder.shape[1],))
    bias_of_encoder = state.take("encoder.bias", (n,), rows=rows)
    return _named(encoder, bias_of_encoder, decoder, bias), ReLU(), None


def _jump_relu(state, trainer, rows):
    encoder, decoder, (n, _) = state.pair(rows)
    bias = state.take("b_dec", (decoder.shape[1],))
    parts = _named(encoder, state.take("b_enc", (n,), rows=rows), decoder, bias)
    return {**parts, "threshold": state.take("threshold", (n,), rows=rows)}, JumpReLU(), None


def _gated(state, trainer, rows):
    encoder, decoder, (n, d) = state.pair(rows)
    bias = state.take("decoder_bias", (d,))
    names = ("r_mag", "gate_bias", "mag_bias")
    log_gain, of_gate, of_values = (state.take(name, (n,), rows=rows) for name in names)
    gain = log_gain.double().exp()
    parts = _named(encoder, of_values, decoder, bias, bias)
    threshold = of_values.double() - gain * of_gate.double()  # p > θ where the gate is open
    return {**parts, "encoder_factor": gain, "threshold": threshold}, Gated(), None


def _top_k(state, trainer, request, name):
    k = _k(state, trainer)
    is_batch = name == TOP_K[1]
    if not is_batch:
        request.refuse_components(state.where)
    rows = request.components
    encoder, decoder, (n, d) = state.pair(rows)
    bias = state.take("b_dec", (d,))
    threshold = _threshold(state) if "threshold" in state else None
    parts = _named(encoder, state.take("encoder.bias", (n,), rows=rows), decoder, bias, bias)
    if is_batch:
        return {**parts, "threshold": threshold}, BatchTopK(min(k, len(encoder))), None
    return {**parts, "k": k}, TopK(k), None


def _matryoshka(state, trainer, rows):
    encoder, decoder, (n, d) = state.pair(rows)
    sizes = state.take("group_sizes", (None,), kind="int").tolist()
    if sum(sizes) != n or min(sizes, default=0) < 1:
        raise FormatError(f"{state.where}: group_sizes={sizes} must add up to {n}, the latents.")
    bias = state.take("b_dec", (d,))
    parts = _named(encoder, state.take("b_enc", (n,), rows=rows), decoder, bias, bias)
    prefixes = tuple(end / n for end in itertools.accumulate(sizes))
    k = _k(state, trainer)
    if rows is not None:  # the groups are those of all latents
        return {**parts, "threshold": _threshold(state)}, BatchTopK(min(k, len(rows))), None
    return {**parts, "threshold": _threshold(state)}, Matryoshka(k, prefixes=prefixes), sizes


def _named(encoder, encoder_bias, decoder, decoder_bias, offset=None):
    return {
        "encoder": encoder,
        "encoder_bias": encoder_bias,
        "decoder": decoder,
        "decoder_bias": decoder_bias,
        "offset": offset,
    }


def _threshold(state):
    """None before training has found one: -1 stands for that."""
    threshold = state.number("threshold")
    return None if threshold < 0 else threshold


def _k(state, trainer):
    """Of the file, and of its configuration: they have to agree. Older files have no tensor k."""
    of_config = trainer.count("k")
    k = state.count("k") if "k" in state else of_config
    if k is None:
        raise FormatError(f"{state.where} has no k, and {trainer.where} has none either.")
    if of_config not in (None, k):
        raise FormatError(f"{state.where} has k={k}, but {trainer.where} k={of_config}.")
    return k


def _activation(trainer, buffer):
    sides = {"out": "output", "in": "input", "in_and_out": "input"}
    side = sides.get(buffer.get("io", kinds=str))
    leaves_out = buffer.get("remove_bos", False, bool)
    return {
        "model": trainer.get("lm_name"),
        "layer_number": trainer.get("layer"),
        "side": side,
        "context_size": buffer.count("ctx_len"),
        "excluded_tokens": ["bos"] if leaves_out else None,
    }


def _provenance(config, trainer, buffer):
    for part in (config, trainer, buffer):
        part.harmless(*OF_TRAINING)
    trainer.get("activation_dim")  # as the tensors say
    kept = {"trainer": trainer.provenance(), "buffer": buffer.provenance()}
    return {**config.provenance(), **kept}


def _state(record):
    """What the library's own load_dictionary reads: tensors, what config.json adds, class."""
    dictionary = record.dictionary
    check_holds(dictionary, "dictionary_learning")
    name = _class_of(record)
    subtracts = name in ("AutoEncoder", "MatryoshkaBatchTopKSAE", *TOP_K)
    bias = dictionary.intercept
    out = exported(dictionary, bias if subtracts else None)
    k = record.architecture.get_params().get("k")
    if name == "AutoEncoder":
        return _linear(out, bias=out.decoder_bias), {}, name
    if name == "AutoEncoderNew":
        return _linear(out, **{"decoder.bias": out.decoder_bias}), {}, name
    if name == "AutoEncoderTopK":
        k = dictionary.encoder.n_largest
        return {**_linear(out, b_dec=out.decoder_bias), **_buffers(k, -1.0)}, {"k": k}, name
    if name == "BatchTopKSAE":
        buffers = _buffers(k, out.threshold[0])
        return {**_linear(out, b_dec=out.decoder_bias), **buffers}, {"k": k}, name
    if name == "MatryoshkaBatchTopKSAE":
        sizes = record.group_sizes or _group_sizes(record.architecture, len(out.encoder))
        buffers = {
            **_buffers(k, out.threshold[0]),
            "group_sizes": torch.tensor(sizes, device="cpu"),
        }
        return {**_matrices(out), **buffers}, {"k": k, "group_sizes": sizes}, name
    return {**_matrices(out), "threshold": out.threshold}, {}, name


def _class_of(record):
    """The class of the library that has these codes, with as much of the dictionary as can be."""
    encoder, architecture = record.dictionary.encoder, record.architecture
    threshold = encoder.threshold
    if encoder.n_largest is not None:
        return "AutoEncoderTopK"
    if threshold is None or not threshold.any():
        # an AutoEncoder's codes are rescaled by the norms of atoms as the library reads it
        return "AutoEncoder" if record.dictionary.norms is None else "AutoEncoderNew"
    is_one = encoder.divisor is None and bool((threshold == threshold[0]).all())
    if is_one and isinstance(architecture, Matryoshka) and architecture.k is not None:
        return "MatryoshkaBatchTopKSAE"
    if is_one and isinstance(architecture, BatchTopK) and architecture.k is not None:
        return "BatchTopKSAE"
    return "JumpReluAutoEncoder"


def _group_sizes(architecture, n):
    ends = prefix_ends(architecture.prefixes, n)
    sizes = [end - start for start, end in itertools.pairwise((0, *ends))]
    return [size for size in sizes if size > 0]


def _linear(out, **biases):
    return {
        "encoder.weight": out.encoder,
        "encoder.bias": out.encoder_bias,
        "decoder.weight": out.decoder.T.contiguous(),
        **biases,
    }


def _matrices(out):
    return {
        "W_enc": out.encoder.T.contiguous(),
        "b_enc": out.encoder_bias,
        "W_dec": out.decoder,
        "b_dec": out.decoder_bias,
    }


def _buffers(k, threshold):
    threshold = torch.as_tensor(threshold, dtype=torch.float32, device="cpu").clone()
    return {"k": torch.tensor(k, dtype=torch.int32, device="cpu"), "threshold": threshold}
