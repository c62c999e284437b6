"""The SparseAutoEncoder module of sentence-transformers: config.json and model.safetensors.

z = relu(top_k((x - b) Wᵀ + c)), of layer-normalised rows if that is asked for; the decoder is the
encoder transposed. Version 6.2: sparse_encoder/modules/sparse_auto_encoder.py.
"""

import json
from dataclasses import replace

import torch

from ..coding import Encoder
from ..models.architectures import TopK
from ..normalization import RowNormalization
from .base import Format, Record, register
from .tensors import FormatError
from .weights import Weights

CONFIG, TENSORS = "config.json", "model.safetensors"
KEYS = ("input_dim", "hidden_dim", "k", "dead_threshold")
# Of the layer norm: s is the standard deviation, divided by d - 1, plus this.
EPS, DDOF = 1e-5, 1
# Relative difference of weights that differ by rounding alone.
SAME = 1e-5
# Of training alone; those of the library itself.
K_AUX, DEAD_THRESHOLD = 512, 30


@register("sentence_transformers")
class SentenceTransformers(Format):
    """Files of the module, which may lie in the folder of a model."""

    description = "sentence-transformers: the SparseAutoEncoder module (written: relu and top-k)"
    looks = "config.json with input_dim, hidden_dim and k, model.safetensors"
    writes = True

    @staticmethod
    def detect(files):
        return _config_name(files) is not None

    @staticmethod
    def read(files, request):
        name = _config_name(files)
        if name is None:
            raise FormatError(f"{files.where} has no {CONFIG} with {', '.join(KEYS)}.")
        config = files.json(name)
        tensors = files.safetensors(name[: -len(CONFIG)] + TENSORS)
        for option in ("layer", "components"):
            if getattr(request, option) is not None:
                raise FormatError(
                    f"{config.where}: {option}={getattr(request, option)!r} is not available: "
                    "there is one layer, and the largest latents of a row depend on all."
                )
        d, n, k = (config.count(key) for key in KEYS[:3])
        config.get("k_aux"), config.get("dead_threshold")  # of training alone
        normalizes = config.get("normalize", False, bool)
        tensors.ignore("stats_last_nonzero")
        # encoder and decoder are the same: a file has either name, or both
        names = [name for name in ("encoder.weight", "decoder.linear.weight") if name in tensors]
        weight = tensors.take((names or ["encoder.weight"])[0], (n, d))
        tensors.ignore(*names)
        bias = tensors.take("pre_bias", (d,))
        weights = Weights(
            encoder=weight,
            encoder_bias=tensors.take("latent_bias", (n,)),
            decoder=weight,
            decoder_bias=bias,
            offset=bias,
            k=k,
            normalization=RowNormalization("layer_norm", EPS, DDOF) if normalizes else None,
        )
        tensors.check_all_taken()
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
            TopK(k),
            source={"library": "sentence-transformers", "config": config.provenance()},
        )

    @staticmethod
    def write(record, folder):
        from safetensors.torch import save_file

        encoder, offset, normalizes = _checked(record.dictionary)
        decodes_otherwise = _decodes_otherwise(record.dictionary, encoder, offset)
        if decodes_otherwise:
            record.cautions.append(decodes_otherwise)
        n, d = encoder.weight.shape
        k = n if encoder.n_largest is None else encoder.n_largest
        tensors = {
            "encoder.weight": encoder.weight.float().contiguous(),
            "latent_bias": encoder.bias.float().contiguous(),
            "pre_bias": offset.float().contiguous(),
            "stats_last_nonzero": torch.zeros(n, dtype=torch.int64, device="cpu"),
        }
        save_file(tensors, str(folder / TENSORS), metadata={"format": "pt"})
        config = {
            "input_dim": d,
            "hidden_dim": n,
            "k": k,
            "k_aux": min(K_AUX, n),
            "normalize": normalizes,
            "dead_threshold": DEAD_THRESHOLD,
        }
        (folder / CONFIG).write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")


def _config_name(files):
    """The one config.json beside a model.safetensors that has the keys of the module."""
    found = []
    for name in files.ending(CONFIG):
        if name[: -len(CONFIG)] + TENSORS in files:
            config = files.json(name)
            if all(key in config for key in KEYS):
                found.append(name)
    return found[0] if len(found) == 1 else None


def _checked(dictionary):
    """The encoder that the module can hold, its offset, and whether it normalises rows."""
    encoder, why = dictionary.encoder, None
    if not isinstance(encoder, Encoder):
        why = "its codes come from no encoder"
    elif encoder.threshold is not None and bool((encoder.threshold != 0).any()):
        why = "it has thresholds (threshold_), and the module only a number of non-zeros"
    elif encoder.selection != "positive":
        why = f"its codes are selected otherwise ({encoder.selection})"
    elif dictionary.is_transcoder or dictionary.skip is not None:
        why = "it is a transcoder"
    elif encoder.divisor is not None and encoder.n_largest is not None:
        why = "its codes are divided by code_scale_ after the largest are chosen"
    normalization = dictionary.normalization
    layer_norm = RowNormalization("layer_norm", EPS, DDOF)
    if normalization is not None and tuple(normalization) != tuple(layer_norm):
        why = f"it normalises rows by {normalization}, and the module only by {layer_norm}"
    if why is not None:
        raise FormatError(
            f"format='sentence_transformers' cannot hold this dictionary: {why}. Use "
            "format='skdict', which holds all."
        )
    if encoder.divisor is not None:  # a positive factor of what is kept where p > 0
        factor = 1 / encoder.divisor.double()
        weight = (factor[:, None] * encoder.weight.double()).to(encoder.weight)
        bias = (factor * encoder.bias.double()).to(encoder.bias)
        encoder = replace(encoder, weight=weight, bias=bias, divisor=None)
    offset = dictionary.intercept if dictionary.offset is None else dictionary.offset
    return encoder, offset, normalization is not None


def _decodes_otherwise(dictionary, encoder, offset):
    """That the module's reconstructions are not ours; None where they are."""
    atoms = dictionary.atoms.double()
    wrong = float((encoder.weight.double() - atoms).norm() / atoms.norm())
    moved = float((offset.double() - dictionary.intercept.double()).abs().max())
    if wrong <= SAME and moved <= SAME * float(dictionary.intercept.abs().max()):
        return None
    return (
        "The module of sentence-transformers will give these codes, but other reconstructions: it "
        "decodes by its encoder transposed, and adds the vector that it subtracts. These atoms "
        f"are {wrong:.2g} of their norm away from that. Where reconstructions count, save for "
        "skdict too."
    )
