"""Predictions without a feature, and their derivatives along it, a batch of windows at a time."""

import itertools
from functools import partial

import numpy as np
import torch
from sklearn.utils import gen_batches

from ..._core.language.next_token import counted_predictions
from ..._core.language.windows import TokenWindows
from ...metrics._coding import reconstructed, scale_of_rows
from ...metrics._rows import BLOCK_SIZE, as_rows, to_numpy
from ..codes._active import nonzero_entries

# Logits of a run at single tokens, and the most of a run of windows: 32 MB, 256 MB in float32.
N_LOGITS_OF_TOKENS, N_LOGITS_OF_WINDOWS = 2**23, 2**26


class Asked:
    """The pairs of a feature and a row that are asked for.

    Parameters
    ----------
    rows : list of ndarray of int64, or None
        For each feature its rows, ascending. None for all rows of all features.
    n_rows : int
    """

    def __init__(self, rows, n_rows):
        self.n_rows = n_rows
        self.is_row = np.full(n_rows, rows is None)
        self._keys = None
        if rows is not None:
            feature = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
            row = np.concatenate([np.empty(0, np.int64), *rows])
            self.is_row[row] = True
            self._keys = feature * n_rows + row  # ascending

    def has(self, feature, row):
        """Whether each pair is asked for; `feature` is an index among the features."""
        if self._keys is None:
            return np.ones(len(row), dtype=bool)
        if len(self._keys) == 0:
            return np.zeros(len(row), dtype=bool)
        keys = feature * self.n_rows + row
        return self._keys[np.searchsorted(self._keys[:-1], keys)] == keys


def cut_windows(windows, bounds, asked):
    """The windows with rows that are asked for, cut off after the token that follows the last.

    Returns
    -------
    cut : TokenWindows
    first_row : ndarray of int64
        Of each of them.
    """
    document, token_ids, kept, first_row = [], [], [], []
    for w, (start, stop) in enumerate(itertools.pairwise(bounds)):
        here = np.flatnonzero(asked.is_row[start:stop])
        if len(here):
            end = np.flatnonzero(windows.kept[w])[here[-1]] + 2
            document.append(windows.document[w])
            token_ids.append(windows.token_ids[w][:end])
            kept.append(windows.kept[w][:end])
            first_row.append(start)
    return TokenWindows(document, token_ids, kept, pad_id=windows.pad_id), np.array(first_row)


class Batch:
    """Windows that the model has run up to the layer, and the codes of their tokens.

    Parameters
    ----------
    language : Language
    windows : TokenWindows
        From `cut_windows`, with the first row of each.
    first_row : ndarray of int64
    indices : list of int
        The windows of this batch.
    asked : Asked
    features : ndarray of int64 of shape (n_selected,)
    directions : torch.Tensor of float32 of shape (n_selected, n_features)

    Attributes
    ----------
    row, feature, code : ndarray of shape (n_found,)
        The pairs that are asked for, with a positive code and a next token; `feature` is an
        index among the selected. Those of a window are side by side.
    """

    def __init__(self, language, windows, first_row, indices, asked, features, directions):
        self.language, self.directions = language, directions
        self.started = language.rest.start(*windows.arguments(language.network, indices))
        self.by_token = language.rest.kind == "tokens"
        kept = windows.kept_mask(indices)
        window, position = (each.numpy() for each in kept.nonzero(as_tuple=True))
        n_before = np.append(0, np.cumsum(kept.sum(dim=1).numpy()))
        row = first_row[indices][window] + np.arange(len(window)) - n_before[window]
        is_followed = counted_predictions(kept)[kept].numpy()
        # where tokens do not mix, only the codes of those that are asked for matter
        used = is_followed & asked.is_row[row] if self.by_token else np.full(len(row), True)
        self._window, self._position = window[used], position[used]
        at, feature, code, amount = self._entries(features)
        # entries of a window and a feature, which a run is without, are side by side
        order = np.lexsort((at, feature, self._window[at]))
        at, feature, code, amount = at[order], feature[order], code[order], amount[order]
        self._nonzero = at, feature, amount
        row, is_followed = row[used][at], is_followed[used][at]
        found = (code > 0) & is_followed & asked.has(feature, row)
        self._at, self.row, self.feature, self.code, self._amount = (
            each[found] for each in (at, row, feature, code, amount)
        )

    def _entries(self, features):
        """Tokens, features and values of the non-zero codes, and how many atoms each adds."""
        if len(self._window) == 0:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
        self._given = to_numpy(self.started.activations[self._window, self._position])
        self._codes = as_rows(self.language.dictionary.transform(self._given), "codes")
        at, feature, code = nonzero_entries(self._codes, features)
        code = code.astype(np.float64)
        scale = scale_of_rows(self.language.dictionary, self._given)
        return at, feature, code, code if scale is None else code * scale[at]

    def ablation(self):
        """Log-probability of each pair's next token, minus that without the feature."""
        found = [self._ablated(some) for some in self._chunks()]
        return np.concatenate([*found, np.empty(0)])

    def _chunks(self):
        """Slices of the pairs that are run together."""
        n_logits = self.language.n_logits
        if self.by_token:
            yield from gen_batches(len(self.row), max(16, N_LOGITS_OF_TOKENS // n_logits))
            return
        start, most = 0, max(1, N_LOGITS_OF_WINDOWS // n_logits)
        n_runs = self.language.extractor.batch_size
        new = self._is_new_run()
        while start < len(new):
            run = np.cumsum(new[start:])
            stop = start + max(1, min(most, int(np.searchsorted(run, n_runs, side="right"))))
            yield slice(start, stop)
            start = stop

    def _is_new_run(self):
        """Whether each pair is of another window or feature than the one before it."""
        window = self._window[self._at]
        return np.append(True, (np.diff(window) != 0) | (np.diff(self.feature) != 0))[
            : len(window)
        ]

    def _ablated(self, some):
        """The effects of a slice of the pairs: runs with the features, then runs without."""
        token, clean = np.unique(self._at[some], return_inverse=True)
        if self.by_token:
            window, position = self._window[self._at[some]], self._position[self._at[some]]
            run = np.arange(len(window))
            clean_window, clean_run = self._window[token], np.arange(len(token))
            part = self._part_of_tokens(some)
        else:
            first = np.flatnonzero(np.append(True, self._is_new_run()[some][1:]))
            window, position = self._window[self._at[some]][first], self._position[self._at[some]]
            run = np.cumsum(np.isin(np.arange(len(position)), first)) - 1
            clean_window, clean_run = np.unique(self._window[token], return_inverse=True)
            part = self._part_of_windows(window, self.feature[some][first])
        n_clean = len(clean_window)

        def without(activations):
            activations[n_clean:] -= part(activations)
            return activations

        with torch.no_grad():
            found = self._log_probabilities(
                without,
                np.append(clean_window, window),
                np.append(self._position[token], position),
                np.append(clean_run, n_clean + run),
            )
        found = found.to("cpu", torch.float64).numpy()
        return found[clean] - found[len(token) :]

    def _log_probabilities(self, function, window, position, of):
        places = (self._on_device(each) for each in (window, position, of))
        return self.started.log_probabilities(function, *places)

    def _on_device(self, array):
        return torch.from_numpy(array).to(self.started.ids.device)

    def _part_of_tokens(self, some):
        """What the features add at the pairs' tokens, a function of the activations there."""
        amount = self._on_device(self._amount[some].astype(np.float32))
        directions = self.directions[self._on_device(self.feature[some])]
        return lambda activations: (amount[:, None] * directions).to(activations)

    def _part_of_windows(self, window, feature):
        """What a feature adds in each of some windows, a function of the activations."""
        amount = self._amounts(window, feature)
        directions = self.directions[self._on_device(feature)]
        return lambda activations: (amount[:, :, None] * directions[:, None]).to(activations)

    def _amounts(self, window, feature):
        """How many atoms a feature adds at each token of a window, float32 (n_pairs, length)."""
        at, features, amounts = self._nonzero
        n = len(self.directions)
        keys, wanted = self._window[at] * n + features, window * n + feature
        start, stop = (np.searchsorted(keys, wanted, side=side) for side in ("left", "right"))
        pair = np.repeat(np.arange(len(wanted)), stop - start)
        entry = np.arange(len(pair)) + np.repeat(stop - np.cumsum(stop - start), stop - start)
        amount = np.zeros((len(wanted), self.started.ids.shape[1]), np.float32)
        amount[pair, self._position[at[entry]]] = amounts[entry]
        return self._on_device(amount)

    def first_order(self, n_steps):
        """Code times gradient of each pair's log-probability, summed over the window's tokens.

        Parameters
        ----------
        n_steps : int
            The gradient is averaged over so many points on the way from the activations to
            those without any feature.
        """
        if len(self.row) == 0:
            return np.empty(0)
        token, of_pair = np.unique(self._at, return_inverse=True)
        order = np.argsort(of_pair, kind="stable")
        found = np.empty(len(order))
        n_logits, n_runs = self.language.n_logits, self.language.extractor.batch_size
        step = max(16, N_LOGITS_OF_TOKENS // n_logits) if self.by_token else n_runs
        for some in gen_batches(len(token), step):
            gradient = self._gradient(token[some], n_steps)
            width = int(np.prod(gradient.shape[1:]))
            edges = np.searchsorted(of_pair[order], [some.start, some.stop])
            pairs = order[slice(*edges)]
            for here in gen_batches(len(pairs), max(1, BLOCK_SIZE // width)):
                chosen = pairs[here]
                found[chosen] = self._products(gradient, of_pair[chosen] - some.start, chosen)
        return found

    def _products(self, gradient, index, pairs):
        """Products of the pairs' parts with gradients, of which `index` names each pair's."""
        gradient = gradient[self._on_device(index)]
        directions = self.directions[self._on_device(self.feature[pairs])].to(gradient)
        if self.by_token:
            along = (gradient * directions).sum(dim=1).to("cpu", torch.float64).numpy()
            return self._amount[pairs] * along
        along = torch.einsum("pld,pd->pl", gradient, directions)
        amount = self._amounts(self._window[self._at[pairs]], self.feature[pairs])
        return (along * amount).sum(dim=1, dtype=torch.float64).cpu().numpy()

    def _gradient(self, token, n_steps):
        """Gradient of the log-probability of the token after each of some.

        Returns
        -------
        gradient : torch.Tensor of float32 at least
            In the activation at that token, (n_tokens, n_features), or in those of its window,
            (n_tokens, length, n_features).
        """
        window, position = self._window[token], self._position[token]
        run, total = np.arange(len(token)), 0
        for step in range(n_steps):
            leaves = []
            leaf = partial(self._leaf, token, step / n_steps, leaves)
            with torch.enable_grad():
                found = self._log_probabilities(leaf, window, position, run)
                (gradient,) = torch.autograd.grad(found.sum(), leaves, allow_unused=True)
            if gradient is None:
                raise ValueError(
                    f"layer={self.language.layer!r} has no influence on the logits. Name a layer "
                    "that has."
                )
            total = total + gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        return total / n_steps

    def _leaf(self, token, share, leaves, activations):
        """Activations with a share of all features taken away, to differentiate by."""
        if share:
            activations -= share * self._parts(token).to(activations)
        leaves.append(activations.requires_grad_())
        # a copy: what comes next may work in place
        return activations.clone()

    def _parts(self, token):
        """What all features add to the activations of runs at some tokens; without the offset."""
        given, codes = self._given, self._codes
        parts = np.asarray(reconstructed(self.language.dictionary, given, codes))
        parts = parts - reconstructed(self.language.dictionary, given, codes * 0)
        if self.by_token:
            return self._on_device(parts[token])
        shape = self.started.activations.shape
        every = np.zeros(shape, dtype=parts.dtype)
        every[self._window, self._position] = parts
        return self._on_device(every[self._window[token]])
