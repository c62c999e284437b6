"""A place in a model: where activations are read and replaced."""

from contextlib import contextmanager
from functools import cached_property, partial

import numpy as np
import torch

from .evaluation import evaluation_mode
from .hooks import check_called, read_activations, record_activations, run_replaced
from .interventions import intervene
from .network import Network
from .sites import find_place
from .texts import check_texts
from .windows import TokenWindows, batches_by_length, tokenize


class Site:
    """A place in a model where activations are read and replaced.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    layer : str or list of str
        Where: the dotted path of a layer, as in ``model.named_modules()``; or a name that says
        the same of every family of models, "layers.5.mlp.out"; or the name of a hook of
        TransformerLens, "blocks.5.hook_mlp_out". Several layers are read in one forward pass.

    side : {"output", "input"}, default="output"
        Whether what the layer returns is meant or its input. Names that are no paths have a side
        of their own.

    call : int, default=None
        Of a layer that a forward pass calls several times, the call that is meant: 0, 1, ... from
        the first, or -1, -2, ... from the last. None for the only one, or to replace at all calls.

    tokenizer : tokenizer of transformers, default=None
        To read texts. Its special tokens keep their activations; without a tokenizer these are
        the BOS, EOS and padding tokens of the model's config.

    feature_axis : "auto" or int, default="auto"
        Axis of the activation that holds the features, as in
        :class:`~skdict.feature_extraction.ActivationExtractor`.

    Attributes
    ----------
    layer : str or list of str
        The dotted path.

    side : str or list of str
        Which side of it.

    Raises
    ------
    TypeError
        If `model` is not a torch.nn.Module.
    ValueError
        If there is no such layer or name: the message lists what is near.

    See Also
    --------
    ActivationExtractor.site : The site of an extractor.
    skdict.inspection.replace_activations : Replaces activations by a dictionary's reconstructions.

    Notes
    -----
    The plain names are "embed", and "layers.L." followed by

    - "in", "mid", "out": the residual stream before the block, between attention and MLP, and
      after the block;
    - "attn.heads", "attn.out": the heads' outputs, and what attention adds to the stream;
    - "mlp.in", "mlp.pre", "mlp.act", "mlp.out": what the MLP is given (after the norm), its
      neurons before and after the activation function, and what it adds to the stream.

    They and the hooks are known of GPT-2, GPT-NeoX (Pythia), Llama, Qwen and Gemma and what is
    built alike. TransformerLens itself changes the weights of a model with LayerNorm as it loads
    it, so that rows of its residual stream are centred; what is read here is the model as it is.

    Examples
    --------
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import Site
    >>> language = load_one_layer_transformer()
    >>> site = Site(language.model, "layers.0.mlp.act", tokenizer=language.tokenizer)
    >>> site.layer, site.side
    ('transformer.h.0.mlp.c_proj', 'input')
    >>> [tuple(x.shape) for x in site.read(["import numpy as np", "return"])]
    [(8, 512), (2, 512)]

    Several layers in one pass:

    >>> site = Site(language.model, ["layers.0.in", "layers.0.out"], tokenizer=language.tokenizer)
    >>> {name: tuple(x[0].shape) for name, x in site.read(["import numpy as np"]).items()}
    {'layers.0.in': (8, 128), 'layers.0.out': (8, 128)}

    With all of a layer's activations halved:

    >>> ids = language.tokenizer("import numpy", return_tensors="pt").input_ids
    >>> with Site(language.model, "layers.0.mlp.out").replace(lambda x: x / 2):
    ...     logits = language.model(ids).logits
    """

    def __init__(
        self, model, layer, *, side="output", call=None, tokenizer=None, feature_axis="auto"
    ):
        if not isinstance(model, torch.nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, but is a {type(model).__name__}.")
        if side not in ("input", "output"):
            raise ValueError(f"side must be 'input' or 'output', but is {side!r}.")
        self.names = list(layer) if isinstance(layer, list | tuple) else [layer]
        if not self.names or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"layer must be a str or a list of str, but is {layer!r:.80}.")
        self.model, self.call = model, call
        self.tokenizer, self.feature_axis = tokenizer, feature_axis
        self.has_one_layer = isinstance(layer, str)
        self.places = [find_place(model, name, side)[:2] for name in self.names]
        layers, sides = map(list, zip(*self.places, strict=True))
        self.layer, self.side = (layers[0], sides[0]) if self.has_one_layer else (layers, sides)
        self._is_checked = False

    @cached_property
    def network(self):
        """The model, and what has to be known to run it."""
        return Network(self.model)

    def read(self, inputs, *, batch_size=16):
        """Return the activations of texts or of token ids.

        The model runs in evaluation mode and without gradients, up to the last of the layers.

        Parameters
        ----------
        inputs : list of str, tensor of shape (n_sequences, length), or mapping
            Texts; or what the model takes: token ids, or keyword arguments such as a tokenizer
            returns.

        batch_size : int, default=16
            Texts in a forward pass.

        Returns
        -------
        activations : list of tensor, or tensor
            Of texts a list with the activation of each, (n_tokens, n_features), special tokens
            included. Else the activation as it is in the model. With several layers a dict of
            these by the names that were given.

        Raises
        ------
        ValueError
            If a text is longer than the model's context, a layer is not called, or has no
            activation at each token of texts.
        """
        if isinstance(inputs, torch.Tensor):
            inputs = inputs.to(self.network.device)
            found = self._read_all([partial(self.model, inputs)])[0]
        elif hasattr(inputs, "keys"):
            found = self._read_all([partial(self.model, **inputs)])[0]
        else:
            found = self._of_texts(inputs, batch_size)
        return found[0] if self.has_one_layer else dict(zip(self.names, found, strict=True))

    def _of_texts(self, texts, batch_size):
        """For each layer a list with the activation of each text."""
        if self.tokenizer is None:
            raise ValueError(
                "To read texts, the site needs a tokenizer: Site(..., tokenizer=...)."
            )
        texts = check_texts(texts, name="inputs")
        windows = tokenize(texts, self.tokenizer, self.network)
        if len(windows) > len(texts):
            longest = np.bincount(windows.document).argmax()
            raise ValueError(
                f"inputs[{longest}] has more tokens than the model's context. Split it, or use an "
                "ActivationExtractor with long_documents='window'."
            )
        lengths, padding = windows.lengths, self.network.takes_attention_mask
        items = range(len(texts))
        batches = list(batches_by_length(items, lengths, batch_size, padding=padding))
        passes = [forward for _, forward, _, _ in windows.passes(self.network, batches)]
        found = [[None] * len(texts) for _ in self.places]
        for batch, activations in zip(batches, self._read_all(passes), strict=True):
            for i, activation in enumerate(activations):
                check_at_tokens(activation, (len(batch), lengths[batch].max()), self.names[i])
                for item, x in zip(batch, activation, strict=True):
                    found[i][item] = x[: lengths[item]]
        return found

    def _read_all(self, passes):
        """The activations of all layers in each of some forward passes."""
        found = []
        with evaluation_mode(self.model), torch.no_grad():
            for forward in passes:
                # that there is but one call is checked once
                call = self.call if self.call is not None or not self._is_checked else 0
                found.append(read_activations(self.model, self.places, forward, call=call))
                self._is_checked = True
        return found

    def activation(self, forward):
        """Run a forward pass up to the layer and return its activation, as the model is.

        Parameters
        ----------
        forward : callable
            Runs the forward pass when called without arguments.

        Returns
        -------
        activation : tensor
        """
        call = self.first_call or 0
        return read_activations(self.model, [self.one_place], forward, call=call)[0]

    def replace(self, edit, *, where=None):
        """Replace the activations at content tokens by a function of them, in a ``with`` block.

        On exit, also after an exception or an interrupt, the model is restored.

        Parameters
        ----------
        edit : callable, or list of callable
            From the activations, a tensor of shape (n_selected, n_features), to what takes their
            place. Gradients pass where those of the function do. With several layers the same
            for all, or one for each.

        where : array-like of bool, or callable, default=None
            Tokens at which to replace, as in :func:`~skdict.inspection.replace_activations`.

        Returns
        -------
        context : context manager
            Returns the model.

        Raises
        ------
        ValueError
            If there is not one function for each layer.
        """
        edits = [edit] * len(self.places) if callable(edit) else list(edit)
        if len(edits) != len(self.places):
            raise ValueError(
                f"edit has {len(edits)} functions, but the site has {len(self.places)} layers."
            )
        options = {"tokenizer": self.tokenizer, "feature_axis": self.feature_axis, "where": where}
        blocks = [
            intervene(self.model, layer, each, side=side, call=self.first_call, **options)
            for (layer, side), each in zip(self.places, edits, strict=True)
        ]
        return blocks[0] if len(blocks) == 1 else _all_of(blocks, self.model)

    def run_replaced(self, function, forward):
        """Run a forward pass in which the layer's whole activation is replaced.

        Parameters
        ----------
        function : callable
            From the activation to what takes its place, of the same shape.

        forward : callable
            Runs the forward pass when called without arguments.

        Returns
        -------
        output : object
            What `forward` returns.
        """
        layer, side = self.one_place
        call = self.first_call
        return run_replaced(self.model, layer, function, forward, side=side, call=call)

    @property
    def one_place(self):
        """(path, side) of the only layer; a ValueError if there are several."""
        if len(self.places) > 1:
            raise ValueError(f"A site of one layer is needed, but this one has {self.names}.")
        return self.places[0]

    @cached_property
    def first_call(self):
        """`call`, counted from the first in a pass of two tokens; None for the only one."""
        if self.call is None or self.call >= 0:
            return self.call
        if not self.network.takes_token_ids:
            raise ValueError(
                f"call={self.call} counts from the last call, which is only known of a model that "
                "takes token ids. Count from the first: 0, 1, ..."
            )
        layer, side = self.one_place
        arguments, keywords = TokenWindows.first().arguments(self.network, [0])
        forward = partial(self.network.run, arguments, keywords)
        with evaluation_mode(self.model), torch.no_grad():
            n_calls = len(record_activations(self.model, layer, forward, side=side))
        check_called(self.model, layer, n_calls, self.call)
        return n_calls + self.call

    def __repr__(self):
        name = self.names[0] if self.has_one_layer else self.names
        return f"Site({type(self.model).__name__}, {name!r})"


def check_at_tokens(activation, shape, layer):
    """Raise a ValueError unless there is one vector for each token of a batch.

    Parameters
    ----------
    activation : tensor
    shape : tuple of int
        (n_sequences, length)
    layer : str
    """
    if activation.ndim != 3 or activation.shape[:2] != tuple(shape):
        raise ValueError(
            f"The activation at layer={layer!r} must have shape (n_sequences, length, "
            f"n_features), here {(*shape, 'n_features')}, but has shape "
            f"{tuple(activation.shape)}."
        )


@contextmanager
def _all_of(blocks, model):
    if not blocks:
        yield model
        return
    with blocks[0], _all_of(blocks[1:], model):
        yield model
