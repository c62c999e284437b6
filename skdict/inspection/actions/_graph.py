"""The graph of a prompt's features and logits, and its file for circuit-tracer's viewer."""

import json
from pathlib import Path


class AttributionGraph:
    """Nodes of a prompt (features, errors, tokens, logits) and the effects between them.

    `attribution_graph` makes it.

    Parameters
    ----------
    **attributes : dict
        What follows.

    Attributes
    ----------
    kind : ndarray of str of shape (n_nodes,)
        "feature", "error", "token" or "logit"; nodes are in this order, then by site.
    site : ndarray of int64 of shape (n_nodes,)
        Index among the pipelines; -1 for tokens, the number of pipelines for logits.
    position : ndarray of int64 of shape (n_nodes,)
        Which token of the prompt.
    feature : ndarray of int64 of shape (n_nodes,)
        The feature; the token id of tokens and logits; -1 for errors.
    activation : ndarray of float64 of shape (n_nodes,)
        The code of a feature, the norm of an error, the probability of a logit; 1 for tokens.
    effects : csr_array of float64 of shape (n_nodes, n_nodes)
        What each node (column) adds to another (row): to a logit, or to the pre-activation of a
        feature.
    values : ndarray of float64 of shape (n_targets,)
        What is explained of the targets: logits relative to the mean, pre-activations of features.
    target_node : ndarray of int64 of shape (n_targets,)
        The nodes that are explained.
    sums : dict of str to ndarray of float64 of shape (n_targets,)
        Of each target the sums over all features ("feature", also those that are no nodes),
        errors ("error") and tokens ("token"), the dictionaries' offsets ("bias") and the rest
        ("rest"). They add up to `values`, to rounding.
    tokens : list of str
        The prompt's tokens.
    layers : list of str
        The layer of each pipeline.

    Examples
    --------
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.pipeline import make_pipeline
    >>> from skdict.datasets import load_one_layer_transformer
    >>> from skdict.feature_extraction import ActivationExtractor
    >>> from skdict.inspection import attribution_graph
    >>> extractor = ActivationExtractor(
    ...     load_one_layer_transformer().path, "transformer.h.0.mlp.act"
    ... )
    >>> texts = ["import numpy as np", "for i in range(10):"]
    >>> pipeline = make_pipeline(extractor, PCA(2)).fit(texts)
    >>> graph = attribution_graph(pipeline, "import numpy as")
    >>> sorted(set(graph.kind.tolist()))
    ['error', 'feature', 'logit', 'token']
    """

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def to_json(self, path=None, *, slug="prompt", scan="model", names=None):
        """The graph in the format of circuit-tracer's viewer and Neuronpedia.

        The viewer has no nodes for offsets and the rest: they are not in the file.

        Parameters
        ----------
        path : path-like, default=None
            File to write; by default nothing is written.

        slug : str, default="prompt"
            Name of the graph.

        scan : str, default="model"
            Name of the model.

        names : list of mapping, default=None
            For each pipeline, names of features.

        Returns
        -------
        graph : dict
            With "metadata", "qParams", "nodes" and "links".
        """
        names = names or [{}] * len(self.layers)
        nodes = [self._node(i, names) for i in range(len(self.kind))]
        effects = self.effects.tocoo()
        content = {
            "metadata": {
                "slug": slug,
                "scan": scan,
                "prompt_tokens": [token.replace("\n", "⏎") for token in self.tokens],
                "prompt": self.prompt,
                "transcoder_list": list(self.layers),
                "schema_version": 1,
            },
            "qParams": {
                "pinnedIds": [],
                "supernodes": [],
                "linkType": "both",
                "clickedId": "",
                "sg_pos": "",
            },
            "nodes": nodes,
            "links": [
                {
                    "source": nodes[source]["node_id"],
                    "target": nodes[target]["node_id"],
                    "weight": float(weight),
                }
                for target, source, weight in zip(
                    effects.row, effects.col, effects.data, strict=True
                )
                if weight
            ],
        }
        if path is not None:
            Path(path).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        return content

    def _node(self, i, names):
        kind, t, j = self.kind[i], int(self.position[i]), int(self.feature[i])
        node = {"ctx_idx": t, "reverse_ctx_idx": 0, "run_idx": 0, "is_target_logit": False}
        node |= {"activation": float(self.activation[i]), "clerp": "", "feature": j}
        if kind == "token":
            node |= {"node_id": f"E_{j}_{t}", "layer": "E", "feature_type": "embedding"}
            return node | {"feature": t, "jsNodeId": f"E_{j}-{t}", "clerp": self.tokens[t]}
        if kind == "logit":
            above, p = max(self.depths, default=0) + 1, float(self.activation[i])
            node |= {"node_id": f"{above}_{j}_{t}", "layer": str(above), "feature_type": "logit"}
            node |= {"token_prob": p, "is_target_logit": bool(p == self.probabilities.max())}
            words = self.words[j]
            return node | {"jsNodeId": f"L_{j}-{t}", "clerp": f'Output "{words}" (p={p:.3f})'}
        layer = self.depths[self.site[i]]
        node |= {"node_id": f"{layer}_{j}_{t}", "layer": str(layer)}
        if kind == "error":
            return node | {
                "feature_type": "mlp reconstruction error",
                "jsNodeId": f"{layer}_-1-{t}",
            }
        node |= {"feature_type": "cross layer transcoder", "jsNodeId": f"{layer}_{j}-0"}
        paired = (layer + j) * (layer + j + 1) // 2 + j  # Cantor's pairing function
        return node | {"feature": paired, "clerp": str(names[self.site[i]].get(j, ""))}
