"""Autoencoders of two linear layers in one torch file: Goodfire, and qresearch of DeepSeek R1.

z = relu(x W + c); x̂ = z D + b. Nothing is subtracted from x. They read the output of a block, of
which only the name of the file tells: <model>-SAE-l<layer>.
"""

import re

from ..models.architectures import ReLU
from .base import Format, Record, register
from .places import file_of_layer
from .weights import Weights

NAME = re.compile(r"(?:^|/)([^/]*)-SAE-l(\d+)\.pth?$")
# Files of these names are another library's, which may have tensors of the same names.
TAKEN = ("ae.pt",)


class _TwoLayers(Format):
    """A torch file with four tensors; subclasses say how the two layers are called."""

    encoder = decoder = ""
    owners = ()

    @classmethod
    def names_of_tensors(cls):
        return {f"{of}.{part}" for of in (cls.encoder, cls.decoder) for part in ("weight", "bias")}

    @classmethod
    def candidates(cls, files):
        """The files with these tensors and no others."""
        names = files.ending("*.pt", "*.pth")
        names = [name for name in names if name.rpartition("/")[2] not in TAKEN]
        wanted = cls.names_of_tensors()
        return [name for name in names if files.tensor_names(name) == wanted]

    @classmethod
    def detect(cls, files):
        return bool(cls.candidates(files))

    @classmethod
    def read(cls, files, request):
        names = cls.candidates(files) or files.ending("*.pt", "*.pth")
        name, layer = file_of_layer(files, names, r"-l(\d+)\.pth?$", request.layer)
        tensors, rows = files.torch_tensors(name), request.components
        weight = tensors.take(f"{cls.encoder}.weight", (None, None), rows=rows)
        n, d = tensors.shape(f"{cls.encoder}.weight")
        weights = Weights(
            encoder=weight,
            encoder_bias=tensors.take(f"{cls.encoder}.bias", (n,), rows=rows),
            decoder=tensors.take(f"{cls.decoder}.weight", (d, n), rows=rows, axis=1).T,
            decoder_bias=tensors.take(f"{cls.decoder}.bias", (d,)),
        )
        tensors.check_all_taken()
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=tensors.where),
            ReLU(),
            source={"library": cls.name},
            activation=cls.place(files.full(name), layer),
        )

    @classmethod
    def place(cls, full, layer):
        """Of what it was trained on, as far as the file's name and the request tell."""
        activation = {"layer_number": layer}
        if layer is not None:
            activation |= {"layer": f"model.layers.{layer}", "side": "output"}
            activation["hook"] = f"blocks.{layer}.hook_resid_post"
        found = NAME.search(full)
        owner = next((o for start, o in cls.owners if found and found[1].startswith(start)), None)
        if owner is not None:
            activation["model"] = f"{owner}/{found[1]}"
        return activation


@register("goodfire")
class Goodfire(_TwoLayers):
    """Files of Goodfire."""

    description = "Goodfire: ReLU, of a block's output"
    looks = ".pt or .pth with encoder_linear and decoder_linear"
    encoder, decoder = "encoder_linear", "decoder_linear"
    owners = (("Llama-", "meta-llama"),)


@register("deepseek")
class DeepSeek(_TwoLayers):
    """Files of qresearch, of DeepSeek R1."""

    description = "DeepSeek R1 by qresearch: ReLU, of a block's output"
    looks = ".pt with encoder and decoder"
    encoder, decoder = "encoder", "decoder"
    owners = (("DeepSeek-", "deepseek-ai"), ("Llama-", "meta-llama"))
