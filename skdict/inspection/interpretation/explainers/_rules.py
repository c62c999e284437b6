"""Rules as explanations, to work without a language model."""

from typing import NamedTuple

import numpy as np

from ...results._best_label import best_label, f1_of
from ..clients._asking import Answer

# Maximum number of tokens in a rule; a longer list would only repeat the examples.
_MAX_TOKENS = 10
# A rule names only tokens that are active in this many windows: one may be a coincidence.
_MIN_WINDOWS = 2
# Number of tokens shown as examples of a label.
_N_SHOWN = 3


class Rule(NamedTuple):
    """A rule: the feature is active on tokens of this kind, or on the tokens after them.

    Parameters
    ----------
    label : int or None
        Column of the labels; None for a list of tokens.
    token_ids : ndarray of int or None
        The list of tokens; None for a label.
    text : str
        The rule in words.
    of_previous : bool
        Whether the rule refers to the preceding token.
    """

    label: int | None
    token_ids: np.ndarray | None
    text: str
    of_previous: bool = False

    def __str__(self):
        return self.text


_NO_RULE = Rule(None, np.empty(0, dtype=np.int64), "nothing")


class RuleExplainer:
    """Explains by rules on labels and tokens, and answers questions by them.

    A rule is fitted only to the examples that it is to explain. It is the one with the greatest
    F1 score on their tokens, among all labels, the best list of tokens, and both for the
    preceding token of the window. What a rule answers to a scorer's question, the scorer says.

    Parameters
    ----------
    grid : WindowGrid
    labels : ndarray of bool of shape (n_rows, n_labels)
    label_names : list of str
    """

    def __init__(self, grid, labels, label_names):
        self._grid = grid
        self._labels = labels
        self._label_names = label_names

    def explain(self, examples):
        """Return the `Answer` whose value is the `Rule` for some examples, at no cost."""
        return Answer(self._find_rule(examples))

    def answer(self, scorer, question):
        """Return the `Answer` to a question of a scorer, at no cost."""
        return Answer(scorer.answer_by_rule(question, self))

    def holds(self, rule, examples):
        """On which tokens of some examples a rule holds.

        Returns
        -------
        holds : ndarray of bool of shape (n_tokens,)
            The tokens of all examples, one after the other.
        first : ndarray of int64 of shape (n_examples,)
            Where each example begins.
        """
        rows = np.concatenate([example.rows for example in examples])
        lengths = [len(example.rows) for example in examples]
        first = np.cumsum([0, *lengths[:-1]])
        if rule.label is not None:
            holds = self._labels[rows, rule.label]
        else:
            holds = (self._grid.token_id[rows][:, None] == rule.token_ids).any(axis=1)
        if rule.of_previous:
            holds = np.append(False, holds[:-1])
            holds[first] = False
        return holds, first

    def profiles(self, examples):
        """How often each token and each label occurs among the marked tokens of each example.

        Returns
        -------
        profiles : ndarray of float64 of shape (n_examples, n_tokens + n_labels)
        """
        ids = np.unique(np.concatenate([self._grid.token_id[e.rows] for e in examples]))
        profiles = []
        for example in examples:
            rows = example.rows[example.marked]
            identity = self._grid.token_id[rows][:, None] == ids
            profiles.append(np.hstack([identity, self._labels[rows]]).mean(axis=0))
        return np.array(profiles)

    @staticmethod
    def to_json(rule):
        """The rule as JSON can hold it."""
        ids = None if rule.token_ids is None else rule.token_ids.tolist()
        return [rule.label, ids, rule.text, rule.of_previous]

    @staticmethod
    def from_json(stored):
        """The rule that was stored."""
        label, ids, text, of_previous = stored
        return Rule(label, None if ids is None else np.array(ids, np.int64), text, of_previous)

    def _find_rule(self, examples):
        rows = np.concatenate([e.rows for e in examples])
        is_active = np.concatenate([e.activations > 0 for e in examples])
        window = np.repeat(np.arange(len(examples)), [len(e.rows) for e in examples])
        has_previous = np.append(False, window[1:] == window[:-1])
        best_f1, best = -1.0, None
        # ties go to the simpler rule, which comes first
        for of_previous, usable in ((False, np.ones_like(has_previous)), (True, has_previous)):
            at, y = rows[usable] - of_previous, is_active[usable]
            for find in (self._label_rule, self._token_rule):
                holds, rule = find(at, y, window[usable])
                f1 = f1_of(np.sum(holds & y), np.sum(is_active), np.sum(holds))
                if f1 > best_f1:
                    best_f1, best = f1, rule._replace(of_previous=of_previous)
        return best._replace(text=f"tokens after {best.text}") if best.of_previous else best

    def _label_rule(self, rows, is_active, window):
        """Where the best label holds, (n_rows,) of bool, and the rule."""
        labels = self._labels[rows]
        if labels.shape[1] == 0:
            return np.zeros(len(rows), dtype=bool), _NO_RULE
        n_true = labels[is_active].sum(axis=0)
        n_active = np.array([is_active.sum()])
        label = max(int(best_label(n_true[None], n_active, labels.sum(axis=0))[0][0]), 0)
        # as examples, the tokens with the label that are active most often
        with_both = self._grid.token_id[rows[is_active & labels[:, label]]]
        ids, counts = np.unique(with_both, return_counts=True)
        frequent = ids[np.argsort(-counts, kind="stable")[:_N_SHOWN]]
        such_as = ", such as " + self._quoted(rows, frequent) if len(ids) else ""
        text = f"tokens labelled {self._label_names[label]}{such_as}"
        return labels[:, label], Rule(label, None, text)

    def _token_rule(self, rows, is_active, window):
        """Where the best list of tokens holds, (n_rows,) of bool, and the rule.

        A list of tokens can overfit. To compare it fairly with labels, it is cross-validated: the
        list of one half of the windows is applied to the other. The rule has the list of all
        windows.
        """
        token_id, even = self._grid.token_id[rows], window % 2 == 0
        holds = np.zeros(len(rows), dtype=bool)
        for half in (even, ~even):
            ids = _best_tokens(token_id[half], is_active[half], window[half])
            holds[~half] = np.isin(token_id[~half], ids)
        ids = _best_tokens(token_id, is_active, window)
        return holds, Rule(None, ids, f"the tokens {self._quoted(rows, ids)}")

    def _quoted(self, rows, ids):
        """The text of tokens, as they occur in the rows; several tokens can have the same."""
        token_id = self._grid.token_id[rows]
        texts = (repr(self._grid.token(rows[token_id == token][-1])) for token in ids)
        return ", ".join(dict.fromkeys(texts))


def _best_tokens(token_id, is_active, window):
    """Ids of the list of tokens with the greatest F1 score, in descending order of activity."""
    if not is_active.any():
        return token_id[:0]
    ids, which, total = np.unique(token_id, return_inverse=True, return_counts=True)
    true = np.bincount(which, weights=is_active, minlength=len(ids))
    active_in = np.unique(np.stack([which[is_active], window[is_active]]), axis=1)[0]
    n_windows = np.bincount(active_in, minlength=len(ids))
    named = np.flatnonzero(n_windows >= min(_MIN_WINDOWS, n_windows.max()))
    # sorted by precision, the best list of any length is a prefix
    order = named[np.lexsort((-true[named], -true[named] / total[named]))]
    f1 = f1_of(np.cumsum(true[order]), is_active.sum(), np.cumsum(total[order]))
    kept = order[: f1.argmax() + 1]
    return ids[kept[np.argsort(-true[kept], kind="stable")[:_MAX_TOKENS]]]
