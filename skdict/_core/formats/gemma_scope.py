"""Gemma Scope of Gemma 2: params.npz, in a folder that says the rest.

z = relu(p) [p > θ] with p = x W + c; x̂ = z D + b. Nothing is subtracted from x, of transcoders
neither: b belongs to what is reconstructed. The weights of the embedding are for rows of the
embedding matrix as they are stored, of length O(1). The model multiplies them by √d, and that is
what its embedding layer gives: W is divided and D multiplied by √d, and b left as it is, as by
SAELens 6 (loading/pretrained_sae_loaders.py).
"""

import re

from ..models.architectures import JumpReLU
from .base import Format, Record, register
from .places import file_of_layer
from .tensors import FormatError
from .weights import Weights

TENSORS = "params.npz"
# The site is in the name of the repository alone, or of the folder that holds a copy.
REPOSITORY = re.compile(
    r"gemma-?scope(?:-(2b|9b|27b)-(pt|it))?-(res|mlp|att|transcoder)s?(?=/|$)", re.IGNORECASE
)
IS_EMBEDDING = re.compile(r"(?:^|/)embedding/width_")
BLOCK = "model.layers.{}"
# of each site: module, side, name in TransformerLens
SITES = {
    "res": (BLOCK, "output", "hook_resid_post"),
    "mlp": (BLOCK + ".post_feedforward_layernorm", "output", "hook_mlp_out"),
    "att": (BLOCK + ".self_attn.o_proj", "input", "attn.hook_z"),
    "transcoder": (BLOCK + ".pre_feedforward_layernorm", "output", "ln2.hook_normalized"),
}
# (heads, width of each) of Gemma 2
HEADS = {"2b": (8, 256), "9b": (16, 256), "27b": (32, 128)}


@register("gemma_scope")
class GemmaScope(Format):
    """Files of Gemma Scope."""

    description = "Gemma Scope (Gemma 2): residual stream, MLP, attention, transcoders, embedding"
    looks = "params.npz"

    @staticmethod
    def detect(files):
        return bool(files.ending(TENSORS))

    @staticmethod
    def read(files, request):
        name, layer = file_of_layer(files, files.ending(TENSORS), r"layer_(\d+)", request.layer)
        full, tensors = files.full(name), files.npz(name)
        is_embedding = bool(IS_EMBEDDING.search(full))
        if is_embedding and request.layer is not None:
            raise FormatError(f"{tensors.where} is of the embedding, not of layer {layer}.")
        found = REPOSITORY.findall(full)
        size, tuning, site = found[-1] if found else ("", "", "")
        is_transcoder = site.lower() == "transcoder"
        weights = _weights(tensors, request.components, is_embedding, is_transcoder)
        activation = _activation(site.lower(), layer, is_embedding)
        heads = HEADS.get(size.lower()) if activation.get("heads") else None
        if heads and heads[0] * heads[1] != weights.encoder.shape[1]:
            heads = None
        cautions = []
        if not site and not is_embedding:
            cautions = [
                f"{tensors.where} does not say what it reads: the residual stream, the output of "
                "an MLP or of attention heads, or the input of an MLP (a transcoder). Only the "
                "name of its repository does: load it from there, or from a folder of that name, "
                "such as gemma-scope-2b-pt-res."
            ]
        if size:
            suffix = "-it" if tuning.lower() == "it" else ""
            activation["model"] = f"google/gemma-2-{size.lower()}{suffix}"
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
            JumpReLU(),
            source={"library": "gemma_scope"},
            activation=activation,
            input_shape=heads,
            cautions=cautions,
        )


def _weights(tensors, rows, is_embedding, is_transcoder):
    encoder, decoder = (
        lower if lower in tensors else upper
        for lower, upper in (("w_enc", "W_enc"), ("w_dec", "W_dec"))
    )
    weight = tensors.take(encoder, (None, None), rows=rows, axis=1)  # (d, n)
    d, n = tensors.shape(encoder)
    atoms = tensors.take(decoder, (n, None), rows=rows)
    factor = 1 / d**0.5 if is_embedding else 1.0
    scale = None
    if "scaling_factor" in tensors:
        scale = tensors.take("scaling_factor", (n,), rows=rows).double()
    if is_embedding:
        scale = (1 if scale is None else scale) * weight.new_full((len(atoms),), d**0.5).double()
    weights = Weights(
        encoder=weight.T,
        encoder_bias=tensors.take("b_enc", (n,), rows=rows),
        decoder=atoms,
        decoder_bias=tensors.take("b_dec", (atoms.shape[1],)),
        threshold=tensors.take("threshold", (n,), rows=rows),
        decoder_factor=scale,
        input_scale=factor,
        output_scale=1.0,
        is_transcoder=is_transcoder,
    )
    tensors.check_all_taken()
    return weights


def _activation(site, layer, is_embedding):
    activation = {"context_size": 1024, "prepend_bos": True, "excluded_tokens": ["bos"]}
    if is_embedding:
        return {"layer": "model.embed_tokens", "side": "output", "hook": "hook_embed"} | activation
    activation["layer_number"] = layer
    if not site or layer is None:
        return activation
    module, side, hook = SITES[site]
    place = {"layer": module.format(layer), "side": side, "hook": f"blocks.{layer}.{hook}"}
    if site == "att":
        place["heads"] = True
    if site == "transcoder":
        target, target_side, _ = SITES["mlp"]
        place["transform"] = "divide_by_norm_weight"
        place |= {"target_layer": target.format(layer), "target_side": target_side}
    return place | activation
