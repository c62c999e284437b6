"""sparsify of EleutherAI: cfg.json and sae.safetensors in the folder of a hook point.

z = top_k(relu((x - b) W + c)), of transcoders without b. Version 1.3: sparse_coder.py,
fused_encoder.py; files of July 2024 may be signed.
"""

from ..models.architectures import AbsTopK, GroupMax, TopK
from .base import Format, Record, register
from .weights import Weights

CONFIG, TENSORS = "cfg.json", "sae.safetensors"


@register("sparsify")
class Sparsify(Format):
    """Files of sparsify."""

    description = "sparsify (EleutherAI) of all ages: top-k, signed, group max, transcoders"
    looks = "cfg.json, sae.safetensors"

    @staticmethod
    def detect(files):
        return bool(files.ending(TENSORS)) and bool(files.ending(CONFIG))

    @staticmethod
    def read(files, request):
        name = files.one(TENSORS)
        folder = name[: -len(TENSORS)]
        config, tensors = files.json(folder + CONFIG), files.safetensors(name)
        d = config.count("d_in", tensors.shape("W_dec")[1] if "W_dec" in tensors else None)
        n = config.get("num_latents", 0, int) or d * config.count("expansion_factor", 32)
        k = config.count("k", 32)
        is_signed = config.get("signed", False, bool)
        activation = config.choice("activation", ("topk", "groupmax"), "topk")
        transcodes = config.get("transcode", False, bool)
        config.get("normalize_decoder"), config.get("multi_topk")  # of training alone
        rows = request.components
        weight = tensors.take("encoder.weight", (n, d), rows=rows)
        decoder = tensors.take("W_dec", (n, None), rows=rows)
        bias = tensors.take("b_dec", (decoder.shape[1],))
        has_skip = config.get("skip_connection", False, bool)
        if activation == "groupmax":
            architecture = GroupMax(k)
        else:
            architecture = AbsTopK(k) if is_signed else TopK(k)
        weights = Weights(
            encoder=weight,
            encoder_bias=tensors.take("encoder.bias", (n,), rows=rows),
            decoder=decoder,
            decoder_bias=bias,
            offset=None if transcodes else bias,
            k=k,
            selection=architecture.selection,
            skip=tensors.take("W_skip", (decoder.shape[1], d)) if has_skip else None,
            is_transcoder=transcodes or has_skip,
        )
        tensors.check_all_taken()
        hookpoint = folder.strip("/") or None
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
            architecture,
            source={"library": "sparsify", "config": config.provenance()},
            activation={"layer": hookpoint, "side": "output"},
        )
