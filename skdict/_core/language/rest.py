"""The part of a model after a layer, run again and again on other activations of the layer."""

import copy
from collections.abc import Mapping
from functools import partial

import torch

from .hooks import Hooks, read_activation, run_replaced, way_to
from .next_token import LOGITS_BLOCK_SIZE, next_token_logits, output_embeddings

# What a model may raise when it is run at single tokens, or a module's result is given to it.
_UNFIT = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


class Rest:
    """The part of a causal language model after a layer.

    A module that has returned before the layer is called is run once for each window. Later runs
    take its result instead, at the places that are run: what stays is the rest of the model. If
    nothing after the layer mixes tokens, single tokens are run instead of windows, and only the
    last module's rows are computed. Whether both are right is tried on the first batch: where a
    run's logits differ from those of the whole model, less is taken from before.

    Parameters
    ----------
    network : Network

    layer : str

    side : {"output", "input"}

    call : int or None
        As in `run_replaced`.

    Attributes
    ----------
    kind : {"tokens", "windows", "whole"} or None
        What is run: the rest of the model at single tokens, or on windows, or the whole model on
        windows. None before the first batch.
    """

    def __init__(self, network, layer, *, side="output", call=None):
        self.network, self.layer, self.side, self.call = network, layer, side, call
        self.kind = None
        self._before = list(_beside(way_to(network.module, layer)))

    def start(self, arguments, keywords):
        """Run windows up to the layer.

        Parameters
        ----------
        arguments, keywords
            As `TokenWindows.arguments` returns them.

        Returns
        -------
        batch : StartedBatch
        """
        results = {module: [] for module in self._before}
        forward = partial(self.network.run, arguments, keywords)
        with torch.no_grad(), Hooks([partial(_noted, m, kept) for m, kept in results.items()]):
            activation = read_activation(
                self.network.module, self.layer, forward, side=self.side, call=self.call or 0
            )
        # the layer's inputs may be changed in place later
        batch = StartedBatch(self, activation.clone(), results, arguments[0], keywords)
        if self.kind is None:
            self.kind = batch.choose_kind()
        return batch

    def run(self, function, arguments, keywords):
        """Run the whole model with `function` of the layer's activation in its place."""
        forward = partial(self.network.run, arguments, keywords)
        where = {"side": self.side, "call": self.call}
        return run_replaced(self.network.module, self.layer, function, forward, **where)


class StartedBatch:
    """Windows that the model has run up to the layer.

    Parameters
    ----------
    rest : Rest

    activations : torch.Tensor of shape (n_windows, length, n_features)

    results : dict of Module to list
        What modules before the layer have returned, call by call.

    ids : torch.Tensor of int64 of shape (n_windows, length)

    keywords : dict
        The model's other arguments.
    """

    def __init__(self, rest, activations, results, ids, keywords):
        self.rest, self.activations, self.results = rest, activations, results
        self.ids, self.keywords = ids, keywords

    def log_probabilities(self, function, window, position, of):
        """Log-probabilities of next tokens with other activations of the layer.

        The runs that are given together are run together, so that rounding is the same in them.

        Parameters
        ----------
        function : callable
            From the activations of the runs to those that replace them: (n_runs, n_features) if
            `kind` is "tokens", else (n_runs, length, n_features).

        window : torch.Tensor of int64 of shape (n_runs,)
            Which of the windows each run is of.

        position : torch.Tensor of int64 of shape (n_predictions,)
            Where the prediction is made.

        of : torch.Tensor of int64 of shape (n_predictions,)
            Which run. With the kind "tokens" there is one prediction for each run.

        Returns
        -------
        log_probabilities : torch.Tensor of shape (n_predictions,)
            In nats, of float32 at least. Derivatives pass through.
        """
        logits = self._logits(self.rest.kind, function, window, position, of)
        following = self.ids[window[of], position + 1]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        found = []
        step = max(1, LOGITS_BLOCK_SIZE // logits.shape[1])
        for some, after in zip(logits.split(step), following.split(step), strict=True):
            block = some.to(dtype)
            found.append(block.gather(1, after[:, None])[:, 0] - block.logsumexp(dim=1))
        return torch.cat(found)

    def _logits(self, kind, function, window, position, of):
        """Logits of predictions, (n_predictions, vocabulary)."""
        if kind == "tokens":
            take = partial(self._at_tokens, window, position)
            activations = function(self.activations[window, position])[:, None]
        else:
            take = partial(self._at_windows, window)
            activations = function(self.activations[window])
        ids, keywords = take(self.ids), _mapped(self.keywords, take)
        before = self.results if kind != "whole" else {}
        registrations = [
            partial(_returning, module, [_mapped(each, take) for each in calls])
            for module, calls in before.items()
            if calls
        ]
        if kind == "tokens":
            at = of, torch.zeros_like(of)
        else:
            at = of, position
        head = _SelectedRows(self.rest.network.module, ids.shape, at)
        with Hooks([*registrations, *head.registrations]):
            output = self.rest.run(lambda _: activations, (ids,), keywords)
        return head.selected(output, ids)

    def _at_tokens(self, window, position, tensor):
        """Single tokens of what has a vector at each token, (n_runs, 1, ...)."""
        if tensor.shape[:2] == self.ids.shape:
            return tensor[window, position][:, None]
        if tensor.ndim > 1 and tensor.shape[:2] == (1, self.ids.shape[1]):
            return tensor[0, position][:, None]
        return tensor

    def _at_windows(self, window, tensor):
        """Windows of what has a vector at each token, (n_runs, length, ...)."""
        return tensor[window] if tensor.shape[:2] == self.ids.shape else tensor

    @torch.no_grad()
    def choose_kind(self):
        """The least that has to be run, tried on the first window; see `Rest.kind`."""
        length = self.ids.shape[1]
        arguments = (self.ids[:1],)
        first = torch.zeros(1, dtype=torch.int64, device=self.ids.device)
        keywords = _mapped(self.keywords, partial(self._at_windows, first))
        same, other = (
            next_token_logits(self.rest.run(each, arguments, keywords), arguments[0])[0]
            for each in (torch.clone, _changed_at_odd_places)
        )
        kinds = ["tokens", "windows"] if torch.equal(same[::2], other[::2]) else ["windows"]
        position = torch.arange(length, device=self.ids.device)
        for kind in kinds:
            of = position if kind == "tokens" else torch.zeros_like(position)
            window = torch.zeros_like(position if kind == "tokens" else position[:1])
            try:
                found = self._logits(kind, torch.clone, window, position, of)
            except torch.OutOfMemoryError:
                raise
            except _UNFIT:
                continue
            if found.shape == same.shape and _agree(found, same):
                return kind
        return "whole"


def _changed_at_odd_places(activations):
    changed = activations.clone()
    changed[:, 1::2] = activations[:, 1::2].roll(1, dims=-1) + activations.std() + 1
    return changed


def _agree(found, expected):
    """Whether logits are equal up to rounding. Half of the digits are left to it."""
    eps = torch.finfo(expected.dtype).eps
    found, expected = found.double(), expected.double()
    finite = expected.isfinite()
    if not torch.equal(found[~finite], expected[~finite]):  # -inf excludes a token
        return False
    scale = expected[finite].abs().max() if finite.any() else 0
    return bool(((found - expected)[finite].abs() <= eps**0.5 * scale).all())


def _beside(way):
    """The outermost modules that do not lie on the way from the model to a layer."""
    for parent in way[:-1]:
        for child in parent.children():
            if not any(child is module for module in way):
                yield from _called(child)


def _called(module):
    """A module, or what a container without a forward of its own holds."""
    if isinstance(module, torch.nn.ModuleList | torch.nn.ModuleDict):
        for child in module.children():
            yield from _called(child)
    elif not isinstance(module, torch.jit.ScriptModule):
        yield module


class _Forward:
    """Another `forward` of a module, until `remove` is called.

    Hooks of the module, such as those of an intervention around all this, run as ever.
    """

    def __init__(self, module, forward):
        self._module, self._former = module, module.__dict__.get("forward")
        module.__dict__["forward"] = forward

    def remove(self):
        if self._former is None:
            self._module.__dict__.pop("forward", None)
        else:
            self._module.__dict__["forward"] = self._former


def _noted(module, kept):
    """Keep what a module returns."""
    forward = module.forward

    def noting(*args, **kwargs):
        result = forward(*args, **kwargs)
        # a copy: what comes next may work in place
        kept.append(_mapped(result, torch.clone))
        return result

    return _Forward(module, noting)


def _returning(module, results):
    """Let a module return what it has returned before; then, called again, what it computes."""
    forward, remaining = module.forward, list(reversed(results))

    def returning(*args, **kwargs):
        return remaining.pop() if remaining else forward(*args, **kwargs)

    return _Forward(module, returning)


def _mapped(value, function):
    """A tensor, tuple, list or mapping with a function of each tensor in its place."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(_mapped(each, function) for each in value)
    if isinstance(value, tuple | list):
        return type(value)(_mapped(each, function) for each in value)
    if isinstance(value, Mapping):
        new = copy.copy(value)
        for key, each in value.items():
            new[key] = _mapped(each, function)
        return new
    return value


class _SelectedRows:
    """Give the output embeddings only the rows whose logits are asked for.

    Parameters
    ----------
    model : torch.nn.Module

    shape : tuple of int
        (n_sequences, length) of the token ids.

    at : pair of torch.Tensor of int64 of shape (n_selected,)
        Sequence and position of each row.
    """

    def __init__(self, model, shape, at):
        self._at, was_selected = at, []

        def select(module, args):
            if len(args) == 1 and getattr(args[0], "shape", ())[:2] == shape:
                was_selected.append(True)
                return (args[0][at][None],)
            return None

        self._was_selected = was_selected
        head = output_embeddings(model)
        self.registrations = (
            [] if head is None else [partial(head.register_forward_pre_hook, select)]
        )

    def selected(self, output, ids):
        """The selected rows of a model's logits, (n_selected, vocabulary)."""
        if not self._was_selected:
            return next_token_logits(output, ids)[self._at]
        return next_token_logits(output, self._at[0][None])[0]
