"""InterPLM of Simon and Zou: ae.pt and config.yaml of a trainer.

ReLUSAE z = relu((x - b) W + c), ReLUSAE_Tied without b, JumpReLUSAE with θ and without b, TopKSAE
the k largest, BatchTopKSAE those above a θ. Where normalize_to_sqrt_d is set, the whole model
scales rows to the norm √d, but its `encode` does not: it takes rows that have been scaled.
dictionary.py of commit 5f4cbf9.
"""

import re

from ..models.architectures import BatchTopK, JumpReLU, ReLU, TopK
from .base import Format, Record, register
from .weights import Weights

TENSORS = ("ae.pt", "ae_normalized.pt", "ae_unnormalized.pt")
CONFIG = "config.yaml"
# Largest values of the latents, which codes are divided by on request, and the number of axes.
OF_OTHERS = ("activation_rescale_factor",)
OF_BATCH = re.compile(r"batch_?top_?k", re.IGNORECASE)
OF_TOP_K = re.compile(r"top_?k", re.IGNORECASE)


def kind_of(files):
    """What the class is: "interplm", "topk", "batchtopk", or "both"; None of another library.

    "topk" and "batchtopk" have the same tensors. The tags of the configuration name the trainer,
    and "both" is where they do not.
    """
    state = files.peek(*TENSORS)
    if state is None or "encoder.weight" not in state or "decoder.weight" not in state:
        return None
    if not {"activation_rescale_factor", "normalize_to_sqrt_d"} & set(state):
        return None
    if "b_dec" not in state:
        return "interplm"
    name = files.one(*TENSORS)
    beside = name[: name.rfind("/") + 1] + CONFIG
    text = "\n".join(re.findall(r".*trainer.*", files.text(beside))) if beside in files else ""
    text = re.sub(r"#.*", "", text)
    if OF_BATCH.search(text):
        return "batchtopk"
    return "topk" if OF_TOP_K.search(text) else "both"


class InterPLM(Format):
    """Files of InterPLM, of one of its classes."""

    kinds = ()

    @classmethod
    def detect(cls, files):
        return kind_of(files) in cls.kinds

    @classmethod
    def read(cls, files, request):
        name = files.one(*TENSORS)
        described = files.describe(name)
        request.refuse_layer(described)
        state = files.torch_tensors(name)
        is_scaled = "normalize_to_sqrt_d" in state and bool(state.number("normalize_to_sqrt_d"))
        parts, architecture = cls.parts(state, request)
        state.ignore(*OF_OTHERS)
        state.check_all_taken()
        cautions = []
        if is_scaled:
            cautions.append(
                f"{described} was trained on rows that were scaled to the norm √d "
                "(normalize_to_sqrt_d), and its encoder does not scale them. Scale yours so, "
                "X * d**0.5 / norm(X)."
            )
        return Record(
            Weights(**parts).dictionary(units=request.units, dtype=request.dtype, where=described),
            architecture,
            source={"library": "InterPLM"},
            activation={"transform": "row_norm" if is_scaled else None},
            cautions=cautions,
        )


@register("interplm")
class OfOneKind(InterPLM):
    """Files that say of which class they are: with relu, or a threshold of each latent."""

    description = "InterPLM: ReLU, tied ReLU and JumpReLU"
    looks = "ae.pt with activation_rescale_factor, config.yaml"
    kinds = ("interplm",)

    @staticmethod
    def parts(state, request):
        rows = request.components
        encoder, decoder, (n, d) = state.pair(rows)
        parts = {"encoder": encoder, "decoder": decoder}
        parts["encoder_bias"] = state.take("encoder.bias", (n,), rows=rows)
        architecture = ReLU()
        if "bias" in state:
            parts["decoder_bias"] = parts["offset"] = state.take("bias", (d,))
        else:
            parts["decoder_bias"] = state.take("decoder.bias", (d,))
        if "threshold" in state:
            parts["threshold"] = state.take("threshold", (n,), rows=rows)
            architecture = JumpReLU()
        return parts, architecture


@register("interplm_topk")
class OfTopK(InterPLM):
    """Files whose class takes the k largest of each row."""

    description = "InterPLM: TopKSAE; its files do not say whether they are this or the next"
    looks = "ae.pt with activation_rescale_factor, b_dec, k, threshold; config.yaml"
    kinds = ("topk", "both")

    @staticmethod
    def parts(state, request):
        request.refuse_components(state.where)
        k = state.count("k")
        state.ignore("threshold")
        return {**_centred(state, None), "k": k}, TopK(k)


@register("interplm_batch_topk")
class OfBatchTopK(InterPLM):
    """Files whose class takes the latents above a common threshold."""

    description = "InterPLM: BatchTopKSAE"
    looks = "ae.pt with activation_rescale_factor, b_dec, k, threshold; config.yaml"
    kinds = ("batchtopk", "both")

    @staticmethod
    def parts(state, request):
        threshold, k = state.number("threshold"), state.count("k")
        parts = _centred(state, request.components)
        architecture = BatchTopK(min(k, len(parts["encoder"])))
        return {**parts, "threshold": None if threshold < 0 else threshold}, architecture


def _centred(state, rows):
    """Parameters of the classes that subtract their b_dec."""
    encoder, decoder, (n, d) = state.pair(rows)
    bias = state.take("b_dec", (d,))
    return {
        "encoder": encoder,
        "encoder_bias": state.take("encoder.bias", (n,), rows=rows),
        "decoder": decoder,
        "decoder_bias": bias,
        "offset": bias,
    }
