"""What a file format is, what is read from one, and the registry."""

from dataclasses import dataclass, field

import torch

from ..dictionary import Dictionary
from ..models.architectures import Architecture, ReLU
from ..registry import Registry
from .tensors import FormatError

FORMATS = Registry("format")
register = FORMATS.register


@dataclass
class Record:
    """A dictionary with all that its files say of it.

    Parameters
    ----------
    dictionary : Dictionary
    architecture : Architecture or None
        Of the estimator that can go on training it; its k is known. None where codes come from no
        `Encoder`.
    source : dict
        Where it comes from: "library", and whatever else is known, as JSON can hold it.
    activation : dict
        Of what it was trained on, those that are known of: "model", "model_revision", "layer" (a
        module path), "side" ("input" or "output"), "hook" (the name in TransformerLens),
        "layer_number", "transform" ("centre_rows", "divide_by_norm_weight", or "row_norm", to
        norm √d), "heads" (whether a row is the heads one after the other), "context_size",
        "prepend_bos", "excluded_tokens" (names of special tokens, or ids; "special" is all of
        them), "excluded_positions", "positions" (the window that is read: start, stop, step),
        "head" (the only one that is read), "hook_out" (in TransformerLens, of a transcoder),
        "scale" (what rows have to be multiplied by before they are given to the dictionary).
        Where a row is several layers one after the other, "layers" instead of "layer". Of
        transcoders, what they reconstruct: "target_layer" and "target_side", or "target_layers"
        one after the other.
    params : dict
        Parameters of the estimator beside those that follow from the dictionary.
    attributes : dict
        Fitted attributes beside those of the dictionary: numbers, arrays or plain containers.
    kind : str
        The name of the class of estimators.
    state : dict
        What `score` and `partial_fit` go on from, in plain containers of arrays: "statistics" and
        "stream". Only of our own.
    input_shape : tuple of (int or None) or None
        Shape of a row where the columns stand for several axes, as (heads, width) or (layers,
        width); None in it is a size that the files do not say.
    group_sizes : list of int or None
        Of a Matryoshka dictionary.
    cautions : list of str
        What a user is warned of: what the rows have to be, where the file says more than that.
    """

    dictionary: Dictionary
    architecture: Architecture | None = field(default_factory=ReLU)
    source: dict = field(default_factory=dict)
    activation: dict = field(default_factory=dict)
    params: dict = field(default_factory=dict)
    attributes: dict = field(default_factory=dict)
    kind: str = "SparseAutoencoderDictionary"
    state: dict = field(default_factory=dict)
    input_shape: tuple | None = None
    group_sizes: list | None = None
    cautions: list = field(default_factory=list)


@dataclass
class Request:
    """What a user asks for of a file.

    Parameters
    ----------
    units : {"source", "unit"}
        Of the codes.
    layer : int or None
        Of files that hold several, or do not say.
    components : list of int or None
        Only these latents.
    dtype : torch.dtype
    scale : float or None
        What activations are multiplied by first, where the files do not say.
    """

    units: str = "source"
    layer: int | None = None
    components: list | None = None
    dtype: torch.dtype = torch.float32
    scale: float | None = None

    def check_layer(self, number, where):
        """Refuse another layer than that of the one dictionary of a file.

        Parameters
        ----------
        number : int or None
            Its layer; None where the file does not say.
        where : str
            The file.
        """
        if number is None:
            self.refuse_layer(where)
        elif self.layer not in (None, number):
            raise FormatError(f"{where} is of layer {number}, not of layer={self.layer}.")

    def refuse_layer(self, where):
        """Refuse a layer where a file holds one dictionary, and says of which layer it is.

        Parameters
        ----------
        where : str
            The file.
        """
        if self.layer is not None:
            raise FormatError(f"{where} holds one dictionary alone: leave layer={self.layer} out.")

    def refuse_components(self, where):
        """Refuse a choice of latents where the largest of a row are kept.

        Parameters
        ----------
        where : str
            The file.
        """
        if self.components is not None:
            raise FormatError(
                f"{where} keeps the largest latents of a row, so that the codes of one depend on "
                "all. Leave components out, and take columns of the codes."
            )


class Format:
    """One way to write a dictionary down. A new one is a file that registers a subclass.

    Attributes
    ----------
    description : str
        One line, for the table of formats.
    looks : str
        The files that it is recognised by, for errors and the table.
    writes : bool
        Whether there is `write`.
    scales : bool
        Whether a `scale` may be asked for.
    """

    description = ""
    looks = ""
    writes = False
    scales = False

    @staticmethod
    def detect(files):
        """Whether files are of this format, by their names and keys; never by a folder's name.

        Parameters
        ----------
        files : Files

        Returns
        -------
        is_found : bool
        """
        raise NotImplementedError

    @staticmethod
    def read(files, request):
        """Read a dictionary.

        Parameters
        ----------
        files : Files
        request : Request

        Returns
        -------
        record : Record

        Raises
        ------
        ValueError
            If a file is damaged, or says what cannot be expressed: with file and field.
        """
        raise NotImplementedError

    @staticmethod
    def write(record, folder):
        """Write a dictionary into an empty folder.

        Parameters
        ----------
        record : Record
            Its cautions get what the user is warned of.
        folder : Path

        Raises
        ------
        ValueError
            If the format cannot hold it.
        """
        raise NotImplementedError
