"""Qwen Scope: layerN.sae.pt, and config.json at the root of the repository.

z = relu(top_k(x W + c)); x̂ = z D + b. Nothing is subtracted from x. The tensors do not say k.
"""

from ..models.architectures import TopK
from .base import Format, Record, register
from .places import file_of_layer
from .tensors import FormatError
from .weights import Weights

TENSORS, CONFIG = "layer*.sae.pt", "config.json"


@register("qwen_scope")
class QwenScope(Format):
    """Files of Qwen Scope."""

    description = "Qwen Scope: top-k of the residual stream"
    looks = "layer*.sae.pt, config.json"

    @staticmethod
    def detect(files):
        return bool(files.ending(TENSORS))

    @staticmethod
    def read(files, request):
        names = files.ending(TENSORS)
        name, layer = file_of_layer(files, names, r"layer(\d+)\.sae\.pt", request.layer)
        config = _configuration(files, name)
        k = config.count("k")
        if k is None:
            raise FormatError(f"{config.where} has no 'k', which decides the codes.")
        config.expect("model_type", "topk_sae")
        config.expect("hook_point", "resid_post")
        n_layers = config.count("num_layers")
        if None not in (layer, n_layers) and layer >= n_layers:
            raise FormatError(
                f"{files.describe(name)} is of layer {layer}, but {config.where} says "
                f"num_layers={n_layers}."
            )
        request.refuse_components(files.describe(name))
        tensors = files.torch_tensors(name)
        n, d = config.count("d_sae"), config.count("d_model")
        weight = tensors.take("W_enc", (n, d))
        n, d = weight.shape
        weights = Weights(
            encoder=weight,
            encoder_bias=tensors.take("b_enc", (n,)),
            decoder=tensors.take("W_dec", (d, n)).T,
            decoder_bias=tensors.take("b_dec", (d,)),
            k=k,
        )
        tensors.check_all_taken()
        activation = {"layer_number": layer}
        if layer is not None:
            activation |= {"layer": f"model.layers.{layer}", "side": "output"}
            activation["hook"] = f"blocks.{layer}.hook_resid_post"
        model = config.get("base_model", kinds=str)
        if model:
            activation["model"] = model
        config.get("dtype")
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
            TopK(k),
            source={"library": "qwen_scope", "config": config.provenance()},
            activation=activation,
        )


def _configuration(files, name):
    """config.json in the folder of a file, or in one above it."""
    folder = name.rpartition("/")[0]
    while True:
        config = f"{folder}/{CONFIG}" if folder else CONFIG
        if config in files:
            return files.json(config)
        if not folder:
            raise FormatError(
                f"{files.describe(name)} does not say how many latents of a row are kept, and "
                f"there is no {CONFIG} with 'k' beside or above it. Load the folder that has both "
                "and choose with layer=, or put the repository's file there."
            )
        folder = folder.rpartition("/")[0]
