"""Between a dictionary and the fitted attributes that make it up."""

import numpy as np
import torch

from .._core.coding import Codebook, Encoder
from .._core.dictionary import Dictionary
from .._core.models.architectures import make_architecture
from .._core.solvers.base import default_n_nonzero
from .._core.tensors import from_numpy

# Fitted attributes that only dictionaries of other libraries have: names in `Dictionary`.
OF_OTHERS = {
    "input_offset_": "offset",
    "component_norms_": "norms",
    "skip_coef_": "skip",
    "input_normalization_": "normalization",
    "is_transcoder_": "is_transcoder",
    "code_scale_": None,  # of the encoder, as the next
    "_selection": None,
}
# Fitted attributes that only some dictionaries have.
OF_SOME = (
    "encoder_coef_",
    "encoder_intercept_",
    "threshold_",
    "codeword_norms_",
    "codebook_sizes_",
    "n_nonzero_coefs_",
    "_architecture",
    "_extra",
    *OF_OTHERS,
)
# All that make up `dictionary_`.
OF_DICTIONARY = ("components_", "intercept_", "alpha_", *OF_SOME)


def attributes_of(dictionary, tables=None):
    """The fitted attributes that make up a dictionary: ndarrays, whatever its device.

    Of ``tables`` that processes have gathered in files, matrices are memory maps of these.

    `dictionary_` is the dictionary itself, or its copy on the CPU, with the coders that it has
    prepared: the attributes are on its memory.
    """
    dictionary = dictionary.to(dictionary.components.dtype, torch.device("cpu"))
    matrix = torch.Tensor.numpy if tables is None else tables.array_of
    attributes = {
        "components_": matrix(dictionary.components),
        "intercept_": dictionary.intercept.numpy(),
        "alpha_": dictionary.alpha,
    }
    encoder, architecture = dictionary.encoder, dictionary.architecture
    if isinstance(encoder, Codebook):
        attributes["codeword_norms_"] = encoder.norms.numpy()
        attributes["codebook_sizes_"] = np.array(encoder.sizes)
    elif encoder is not None:
        attributes["encoder_coef_"] = matrix(encoder.weight)
        attributes["encoder_intercept_"] = encoder.bias.numpy()
        if encoder.threshold is not None:
            attributes["threshold_"] = encoder.threshold.numpy()
        if encoder.divisor is not None:
            attributes["code_scale_"] = encoder.divisor.numpy()
        if encoder.selection != getattr(architecture, "selection", "positive"):
            attributes["_selection"] = encoder.selection
    for name, field in OF_OTHERS.items():
        part = None if field is None else getattr(dictionary, field)
        if part is not None and part is not False:
            attributes[name] = part.numpy() if torch.is_tensor(part) else part
    if architecture is not None:
        attributes["_architecture"] = architecture
        attributes["_extra"] = {name: value.numpy() for name, value in dictionary.state.items()}
        if "k" in architecture.get_params():
            attributes["n_nonzero_coefs_"] = architecture.k
    parts = [attributes.get(name) for name in OF_DICTIONARY]
    return {**attributes, "_dictionary": (parts, dictionary)}


def is_shared(part):
    """Whether tensors made of a fitted attribute see what is written into it later."""
    if isinstance(part, np.ndarray):
        return not part.flags.writeable or min(part.strides, default=0) >= 0
    return not isinstance(part, list)


def _by_parameters(attributes):
    """The architecture that the parameters name, for attributes that were set by hand."""
    k = attributes.get("n_nonzero_coefs_", attributes["n_nonzero_coefs"])
    architecture = make_architecture(attributes["architecture"], k)
    n_components, n_features = np.shape(attributes["components_"])
    architecture.complete(n_components, default_n_nonzero(n_features, n_components))
    return architecture


def dictionary_of(attributes):
    """The dictionary that fitted attributes make up, on their memory."""

    def tensor(name):
        array = attributes.get(name)
        return None if array is None else from_numpy(np.asarray(array))

    components, architecture = tensor("components_"), attributes.get("_architecture")
    encoder = None
    if "codeword_norms_" in attributes:
        sizes = attributes["codebook_sizes_"].tolist()
        encoder = Codebook(components, tensor("codeword_norms_"), sizes)
    elif "encoder_coef_" in attributes:
        rule = architecture or _by_parameters(attributes)
        encoder = Encoder(
            tensor("encoder_coef_"),
            tensor("encoder_intercept_"),
            tensor("threshold_"),
            rule.n_largest,
            attributes.get("_selection", rule.selection),
            tensor("code_scale_"),
        )
    state = attributes.get("_extra", {})
    return Dictionary(
        components,
        tensor("intercept_"),
        encoder,
        attributes["alpha_"],
        architecture,
        {name: from_numpy(value) for name, value in state.items()},
        offset=tensor("input_offset_"),
        norms=tensor("component_norms_"),
        normalization=attributes.get("input_normalization_"),
        skip=tensor("skip_coef_"),
        is_transcoder=attributes.get("is_transcoder_", False),
    )
