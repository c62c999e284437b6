"""sparsify of EleutherAI: cfg.json and sae.safetensors in the folder of a hook point.

z = top_k(relu((x - b) W + c)), of transcoders without b. Version 1.3: sparse_coder.py,
fused_encoder.py; files of July 2024 may be signed.
"""

import re
from pathlib import PurePosixPath

from ..models.architectures import AbsTopK, GroupMax, TopK
from .base import Format, Record, register
from .tensors import FormatError
from .weights import Weights
from .writing import check_holds, exported, write_json, write_safetensors

CONFIG, TENSORS = "cfg.json", "sae.safetensors"

# The path of a module in its blocks, as "layers.3" or "h.3.mlp", which names a folder.
HOOKPOINT = re.compile(r"\.\d+(\.|$)")


@register("sparsify")
class Sparsify(Format):
    """Files of sparsify."""

    description = "sparsify (EleutherAI) of all ages: top-k, signed, group max, transcoders"
    looks = "cfg.json, sae.safetensors"
    writes = True

    @staticmethod
    def detect(files):
        return bool(files.ending(TENSORS)) and bool(files.ending(CONFIG))

    @staticmethod
    def read(files, request):
        name = files.one(TENSORS)
        request.refuse_layer(files.describe(name))
        request.refuse_components(files.describe(name))
        folder = name[: -len(TENSORS)]
        config, tensors = files.json(folder + CONFIG), files.safetensors(name)
        weight = tensors.take("encoder.weight", (None, None))
        n, d = weight.shape
        if config.count("d_in", d) != d:
            raise FormatError(f"{config.where}: d_in={config.get('d_in')}, but the file has {d}.")
        said = config.get("num_latents", 0, int) or d * config.count("expansion_factor", 32)
        if said != n:
            raise FormatError(f"{config.where} says {said} latents, but {tensors.where} has {n}.")
        k = config.count("k", 32)
        is_signed = config.get("signed", False, bool)
        activation = config.choice("activation", ("topk", "groupmax"), "topk")
        transcodes = config.get("transcode", False, bool)
        config.harmless("normalize_decoder", "multi_topk")  # of training alone
        decoder = tensors.take("W_dec", (n, None))
        bias = tensors.take("b_dec", (decoder.shape[1],))
        has_skip = config.get("skip_connection", False, bool)
        if activation == "groupmax":
            architecture = GroupMax(k)
        else:
            architecture = AbsTopK(k) if is_signed else TopK(k)
        weights = Weights(
            encoder=weight,
            encoder_bias=tensors.take("encoder.bias", (n,)),
            decoder=decoder,
            decoder_bias=bias,
            offset=None if transcodes else bias,
            k=k,
            selection=architecture.selection,
            skip=tensors.take("W_skip", (decoder.shape[1], d)) if has_skip else None,
            is_transcoder=transcodes or has_skip,
        )
        tensors.check_all_taken()
        hookpoint = config.get("hookpoint", None, str)
        above = PurePosixPath(files.full(name)).parent.name  # also where path= named it
        if hookpoint is None and HOOKPOINT.search(above):
            hookpoint = above
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
            architecture,
            source={"library": "sparsify", "config": config.provenance()},
            activation={"layer": hookpoint, "side": "output"},
        )

    @staticmethod
    def write(record, folder):
        dictionary, library = record.dictionary, "sparsify"
        check_holds(dictionary, library, selections=("positive", "groups"), transcodes=True)
        encoder = dictionary.encoder
        (n, d_out), d, k = dictionary.shape, dictionary.n_inputs, encoder.n_largest
        if k is None or encoder.threshold is not None:
            raise FormatError(
                "sparsify holds top-k and group max alone, and not a dictionary whose codes are "
                "what is above a threshold. Use format='sae_lens' or 'dictionary_learning'."
            )
        if d != d_out:
            raise FormatError(f"sparsify cannot hold a transcoder from {d} to {d_out} columns.")
        has_groups = encoder.selection == "groups"
        if has_groups and n % k:
            raise FormatError(
                f"sparsify has groups of equal size, but {k} of {n} latents are not."
            )
        transcodes = dictionary.is_transcoder
        out = exported(dictionary, None if transcodes else dictionary.intercept)
        tensors = {
            "encoder.weight": out.encoder,
            "encoder.bias": out.encoder_bias,
            "W_dec": out.decoder,
            "b_dec": out.decoder_bias,
        }
        if dictionary.skip is not None:
            tensors["W_skip"] = dictionary.skip.detach().cpu().float().contiguous()
        config = {
            "activation": "groupmax" if has_groups else "topk",
            "expansion_factor": max(1, n // d),
            "normalize_decoder": dictionary.norms is None,
            "num_latents": n,
            "k": k,
            "multi_topk": False,
            "skip_connection": dictionary.skip is not None,
            "transcode": transcodes,
            "d_in": d,
            "hookpoint": record.activation.get("layer"),  # sparsify has it as the folder's name
        }
        write_safetensors(folder / TENSORS, tensors)
        write_json(folder / CONFIG, config)
