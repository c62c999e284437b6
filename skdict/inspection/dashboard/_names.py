"""Names of the page's features, as the content has them."""

import numpy as np

from ..results._feature_names import best_labels, feature_names
from ._schema import listed


class Names:
    """Names of features, their scores, and the names of features that are not on the page.

    Parameters
    ----------
    labels : list of str or None
    scores : dict
        See `feature_names`.
    others : dict of int to str
    """

    def __init__(self, labels, scores, others):
        self.labels, self.scores, self.others = labels, scores, others

    @classmethod
    def of(cls, codes, columns, names, token_labels):
        """From `names`; features that these do not name are named after labels of the tokens."""
        labels, scores, others = feature_names(names, columns, codes.n_components)
        if token_labels is not None:
            detected, f1 = best_labels(codes, columns, token_labels)
            labels = [a or b for a, b in zip(labels, detected, strict=True)]
            scores = scores | f1
        return cls(labels, scores, others)

    @property
    def scorers(self):
        """Names and chance levels of the scores."""
        return [
            {"name": name, "chance": listed(np.array([each["chance"]], dtype=np.float64))[0]}
            for name, each in self.scores.items()
        ]

    def first_score(self):
        """The scores that the index shows, (n_selected,); nan where there is none."""
        for each in self.scores.values():
            return each["score"]
        return np.full(len(self.labels), np.nan)

    def columns(self):
        """Scores and their baselines as columns of the features."""
        return {
            name: {
                kind: each[kind]
                for kind in ("score", "shuffled", "neuron")
                if each[kind] is not None
            }
            for name, each in self.scores.items()
        }
