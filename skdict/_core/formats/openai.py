"""OpenAI's sparse_autoencoder: one LAYER.pt of its blob store.

z = relu((x - b) W + c); of TopK the k largest of it, of rows that are brought to mean 0 and
standard deviation 1 before, with relu or as they are. model.py of commit 4965b94.
"""

from pathlib import PurePosixPath

from ..models.architectures import ReLU, TopK
from ..normalization import RowNormalization
from .base import Format, Record, register
from .config import Config
from .tensors import FormatError
from .weights import Weights

LAYER_NORM = RowNormalization("layer_norm", eps=1e-5, ddof=1)
OF_TRAINING = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


@register("openai")
class OpenAI(Format):
    """Files of OpenAI's GPT-2 autoencoders."""

    description = "OpenAI's sparse_autoencoder: relu and top-k with layer norm, all versions"
    looks = "one .pt with pre_bias, latent_bias"

    @staticmethod
    def detect(files):
        state = files.peek("*.pt")
        return state is not None and {"pre_bias", "latent_bias"} <= set(state.names)

    @staticmethod
    def read(files, request):
        name = files.one("*.pt")
        state = files.torch_tensors(name)
        others = {str(key): value for key, value in state.items() if key not in state.names}
        config = Config(others, state.where)
        activation = config.choice("activation", ("ReLU", "TopK"), "ReLU")
        inner = config.part("activation_state_dict")
        rows, k, post = request.components, None, "ReLU"
        if activation == "TopK":
            request.refuse_components(state.where)
            k, post = inner.count("k"), inner.choice("postact_fn", ("ReLU", "Identity"))
            if k is None:
                raise FormatError(f"{inner.where} has no k.")
        _check_copies(config, k, post)
        encoder = state.take("encoder.weight", (None, None), rows=rows)
        n, d = state.shape("encoder.weight")
        if "decoder.weight" in state:
            decoder = state.take("decoder.weight", (d, n), rows=rows, axis=1).T
        else:  # tied
            decoder = state.take("decoder.linear.weight", (n, d), rows=rows)
        bias = state.take("pre_bias", (d,))
        weights = Weights(
            encoder=encoder,
            encoder_bias=state.take("latent_bias", (n,), rows=rows),
            decoder=decoder,
            decoder_bias=bias,
            offset=bias,
            k=k,
            selection="signed" if post == "Identity" else "positive",
            normalization=LAYER_NORM if k is not None else None,
        )
        state.ignore(*OF_TRAINING)
        state.check_all_taken()
        inner.provenance()
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=state.where),
            ReLU() if k is None else TopK(k),
            source={"library": "openai/sparse_autoencoder", "config": config.provenance()},
            activation={"model": "gpt2", "layer_number": _layer(name, request)},
        )


def _layer(name, request):
    """Of the file's name, which is a number."""
    stem = PurePosixPath(name).stem
    of_name = int(stem) if stem.isdecimal() else None
    if None not in (of_name, request.layer) and of_name != request.layer:
        raise FormatError(
            f"{name} is of layer {of_name}, but layer={request.layer} was asked for."
        )
    return request.layer if of_name is None else of_name


def _check_copies(config, k, post):
    """Files that were saved again have k and the function a second time."""
    for key, value in (("activation.k", k), ("activation.postact_fn", post)):
        if config.get(key, value) != value:
            raise FormatError(
                f"{config.where}: {key}={config.get(key)!r}, but activation_state_dict says "
                f"{value!r}."
            )
