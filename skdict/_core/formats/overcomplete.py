"""overcomplete of Fel and others: the state_dict of a model, and info.json of ours beside it.

z = relu(x W + c), of JumpSAE and BatchTopKSAE where it is at least θ, of TopKSAE its k largest;
x̂ = z D with D_j = w_j e^m / (‖w_j‖ + 1e-8). Its state_dict has no top_k and no running_threshold,
so that info.json has to tell: {"class": "TopKSAE", "top_k": 8} or {"class": "BatchTopKSAE",
"running_threshold": 0.9}. Version 0.3.0.
"""

import torch

from ..models.architectures import BatchTopK, JumpReLU, ReLU, TopK
from .base import Format, Record, register
from .config import Config
from .tensors import FormatError
from .weights import Weights, row_norms

INFO = "info.json"
# What the library adds to norms of atoms.
EPS = 1e-8
KINDS = ("SAE", "TopKSAE", "BatchTopKSAE", "JumpSAE")
REFUSED = {
    "MpSAE": "matching pursuit takes atoms one after the other, by what is left of the row",
    "OMPSAE": "orthogonal matching pursuit solves for the codes of each row",
    "QSAE": "its codes are quantised",
}
ATOMS, MULTIPLIER = "dictionary._weights", "dictionary.multiplier"
ENCODERS = ("encoder.final_block.0.", "encoder.")
TIED = ("encoder.tied_to._weights", "encoder.tied_to.multiplier")


@register("overcomplete")
class Overcomplete(Format):
    """Files of overcomplete."""

    description = "overcomplete: SAE, TopK, BatchTopK and Jump with a linear or tied encoder"
    looks = "state_dict.pt with dictionary._weights, info.json"

    @staticmethod
    def detect(files):
        state = files.peek(*_ending(files))
        return state is not None and any(name.startswith("dictionary.") for name in state.names)

    @staticmethod
    def read(files, request):
        name = files.one(*_ending(files))
        described = files.describe(name)
        request.refuse_layer(described)
        state = files.torch_tensors(name)
        beside = name[: name.rfind("/") + 1] + INFO
        info = files.json(beside) if beside in files else Config({}, INFO)
        kind = _kind(state, info)
        rows, k, threshold, architecture = request.components, None, None, ReLU()
        if kind == "TopKSAE":
            request.refuse_components(described)
            k = info.need("top_k", int)
            architecture = TopK(k)
        atoms = state.take(ATOMS, (None, None), rows=rows)
        n, d = state.shape(ATOMS)
        gain = state.number(MULTIPLIER) if MULTIPLIER in state else 0.0
        factor = torch.tensor(gain, dtype=torch.float64, device="cpu").exp() / (
            row_norms(atoms) + EPS
        )
        encoder, bias, is_tied = _encoder(state, atoms, (n, d), rows)
        if kind == "BatchTopKSAE":
            threshold = info.need("running_threshold", float)
            architecture = BatchTopK(min(info.count("top_k", max(n // 10, 1)), len(atoms)))
        elif kind == "JumpSAE":
            threshold = state.take("thresholds", (n,), rows=rows).float().exp()
            architecture = JumpReLU()
        weights = Weights(
            encoder=encoder,
            encoder_bias=bias,
            decoder=atoms,
            threshold=threshold,
            keeps_equal=True,
            k=k,
            encoder_factor=factor if is_tied else None,
            decoder_factor=factor,
        )
        state.check_all_taken()
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=described),
            architecture,
            source={"library": "overcomplete", "class": kind, "config": info.provenance()},
        )


def _ending(files):
    """What the weights' file is called: models of the whole object may lie beside it."""
    return ("*state_dict.pt",) if files.ending("*state_dict.pt") else ("*.pt", "*.pth")


def _kind(state, info):
    """The class, of info.json or of the tensors."""
    if {"dictionary.C", "dictionary.W", "dictionary.Relax"} & set(state):
        raise FormatError(
            f"{state.where} has an archetypal dictionary, whose atoms are mixtures of data. Save "
            "the state_dict of a model with a plain one of the same atoms, its get_dictionary()."
        )
    known = info.get("class", None, str)
    for name, reason in REFUSED.items():
        if known == name:
            raise FormatError(f"{info.where}: class={name!r} cannot be expressed here: {reason}.")
    if known is not None:
        return info.choice("class", KINDS)
    if "thresholds" in state:
        return "JumpSAE"
    if not any(name.startswith("encoder.") for name in state.names):
        raise FormatError(
            f"{state.where} has no encoder, as of matching pursuit (MpSAE, OMPSAE), which cannot "
            "be expressed here: it takes atoms one after the other, by what is left of the row."
        )
    raise FormatError(
        f"{state.where} does not say whether its class is SAE, TopKSAE or BatchTopKSAE, as "
        f"overcomplete saves neither top_k nor running_threshold. Write them into {INFO} beside "
        'it: {"class": "SAE"}, {"class": "TopKSAE", "top_k": 8} or {"class": "BatchTopKSAE", '
        '"running_threshold": 0.9}.'
    )


def _encoder(state, atoms, shape, rows):
    """The encoder's rows and bias, and whether the rows are the atoms."""
    n, d = shape
    names = [name for name in state.names if name.startswith("encoder.")]
    state.ignore(*TIED)
    for start in ENCODERS:
        if f"{start}weight" in state:
            weight = state.take(f"{start}weight", (n, d), rows=rows)
            return weight, _bias(state, f"{start}bias", n, rows), False
    if all(name in (*TIED, "encoder.bias") for name in names):
        return atoms, _bias(state, "encoder.bias", n, rows), True
    raise FormatError(
        f"{state.where}: its encoder is not one linear map: it has {', '.join(names[:8])}."
    )


def _bias(state, name, n, rows):
    return state.take(name, (n,), rows=rows) if name in state else None
