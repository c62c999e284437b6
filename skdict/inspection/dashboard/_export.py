"""Write features in the format that Neuronpedia imports."""

import gzip
import json
from datetime import UTC, datetime

import numpy as np

from ...utils._files import replacing_folder
from ._schema import encoded

N_BATCH = 1024  # features in a file
N_AROUND = 64  # tokens before and behind the one that an example is about
# Fields that an import asks for and that nothing here has a value for.
RELEASE = {"isNewUi": False, "featured": False, "defaultUmapSourceIds": []}
MODEL = {
    "instruct": False,
    "tlensId": None,
    "dimension": None,
    "inferenceEnabled": False,
    "layers": 0,
    "neuronsPerLayer": 0,
    "owner": "",
    "website": None,
}
SOURCE_SET = {
    "hasDashboards": True,
    "defaultOfModelId": None,
    "defaultRange": 1,
    "defaultShowBreaks": True,
    "showDfa": False,
    "showCorrelated": True,
    "showHeadAttribution": False,
    "showUmap": False,
}
SOURCE = {
    "hasDashboards": True,
    "inferenceEnabled": False,
    "inferenceHosts": [],
    "saelensConfig": None,
    "saelensRelease": None,
    "saelensSaeId": None,
    "hfRepoId": None,
    "hfFolderId": None,
    "defaultOfModelId": None,
    "hasUmap": False,
    "hasUmapLogSparsity": False,
    "hasUmapClusters": False,
}
FEATURE = {
    "vectorLabel": None,
    "hookName": None,
    "correlated_neurons_indices": [],
    "correlated_neurons_pearson": [],
    "correlated_neurons_l1": [],
    "correlated_features_l1": [],
    "decoder_weights_dist": [],
}
ACTIVATION = {
    "dataSource": None,
    "dfaValues": [],
    "dfaTargetIndex": None,
    "dfaMaxValue": None,
    "lossValues": [],
    "logitContributions": None,
}
EXPLANATION = {"triggeredByUserId": None, "typeName": None, "explanationModelName": None}


def write_neuronpedia(content, folder, *, model_id, sae_id, creator_id, vectors=None):
    """Write the folders and files of an import.

    Parameters
    ----------
    content : dict
        See `_schema`; of tokens.
    folder : pathlib.Path
    model_id, sae_id, creator_id : str
    vectors : ndarray of shape (n_components, n_features), default=None
        Atoms, for steering.

    Returns
    -------
    source : pathlib.Path
        The folder of the source, ``folder / model_id / sae_id``.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    ids = _Ids(model_id, sae_id, creator_id, now)
    with replacing_folder(folder, overwrite=True) as temporary:
        source = temporary / model_id / sae_id
        for name in ("features", "activations", "explanations"):
            (source / name).mkdir(parents=True)
        for name, row in _records(content, ids).items():
            _write(source / f"{name}.jsonl.gz", [row])
        tokens = _Tokens(content["tokens"])
        for k, start in enumerate(range(0, len(content["features"]), N_BATCH)):
            batch = list(content["features"][start : start + N_BATCH])
            rows = {"features": [], "activations": [], "explanations": []}
            for feature in batch:
                vector = None if vectors is None else vectors[feature["id"]]
                rows["features"].append(_feature(feature, ids, vector))
                rows["activations"] += _activations(feature, ids, tokens)
                rows["explanations"] += _explanations(feature, ids, content["scorers"])
            for name, each in rows.items():
                _write(source / name / f"batch-{k}.jsonl.gz", each)
    return folder / model_id / sae_id


class _Ids:
    """What all records share, and new keys."""

    def __init__(self, model_id, sae_id, creator_id, now):
        self.model, self.source, self.creator, self.now = model_id, sae_id, creator_id, now
        self.n_keys = 0
        layer, _, rest = sae_id.partition("-")
        self.set = rest if layer.isdigit() and rest else sae_id

    def key(self):
        """A key that no other record of this export has."""
        self.n_keys += 1
        return f"{self.model}-{self.source}-{self.n_keys}"


def _records(content, ids):
    """The records of the release, the model, the set of sources and the source."""
    provenance = content["provenance"]
    common = {"creatorId": ids.creator, "createdAt": ids.now, "visibility": "PUBLIC"}
    default = {"defaultSourceSetName": ids.set, "defaultSourceId": ids.source}
    creator = {"creatorName": ids.creator, "creatorEmail": None, "urls": []}
    n_texts = max(len(set(content["tokens"]["document"])), 1)
    title = {"description": content["title"], "descriptionShort": content["title"]}
    names = {"displayName": ids.model, "displayNameShort": ids.model}
    kind = {"description": str(provenance.get("dictionary", content["title"])), "type": ""}
    corpus = {
        "num_prompts": n_texts,
        "num_tokens_in_prompt": max(1, content["dictionary"]["n_rows"] // n_texts),
        "dataset": str(provenance.get("corpus", "")),
        "notes": json.dumps(provenance, ensure_ascii=False),
    }
    of_release = {"name": ids.set, "creatorNameShort": ids.creator} | title | creator | default
    of_set = {"modelId": ids.model, "name": ids.set, "releaseName": ids.set} | kind | creator
    of_source = {"id": ids.source, "modelId": ids.model, "setName": ids.set} | corpus
    return {
        "release": RELEASE | of_release | common,
        "model": MODEL | {"id": ids.model, "updatedAt": ids.now} | names | default | common,
        "sourceset": SOURCE_SET | of_set | common,
        "source": SOURCE | of_source | common,
    }


def _feature(feature, ids, vector):
    """The record of a feature; lists of what is not known are empty."""
    statistics = feature["statistics"]
    maximum, counts = statistics["maximum"], np.array(statistics["histogram"])
    centres = (np.arange(len(counts)) + 0.5) * maximum / len(counts)
    neurons = feature.get("neurons", {"index": [], "weight": [], "share": []})
    near = feature.get("neighbours", {})
    none = {"features": [], "values": []}
    cosine, correlation = (near.get(kind, none) for kind in ("cosine", "correlation"))
    of_logits = {"tokens": [], "weights": []}
    logits = feature.get("logits", {"raised": of_logits, "lowered": of_logits})
    histogram = logits.get("histogram", {"low": 0.0, "high": 0.0, "counts": []})
    n_bins = len(histogram["counts"])
    step = (histogram["high"] - histogram["low"]) / max(n_bins, 1)
    return FEATURE | {
        "modelId": ids.model,
        "layer": ids.source,
        "index": str(feature["id"]),
        "sourceSetName": ids.set,
        "creatorId": ids.creator,
        "createdAt": ids.now,
        "maxActApprox": maximum,
        "hasVector": vector is not None,
        "vector": [] if vector is None else [float(x) for x in vector],
        "vectorDefaultSteerStrength": maximum,
        "topkCosSimIndices": cosine["features"],
        "topkCosSimValues": cosine["values"],
        "neuron_alignment_indices": neurons["index"],
        "neuron_alignment_values": neurons["weight"],
        "neuron_alignment_l1": neurons["share"],
        "correlated_features_indices": correlation["features"],
        "correlated_features_pearson": correlation["values"],
        "neg_str": logits["lowered"]["tokens"],
        "neg_values": logits["lowered"]["weights"],
        "pos_str": logits["raised"]["tokens"],
        "pos_values": logits["raised"]["weights"],
        "frac_nonzero": statistics["density"],
        "freq_hist_data_bar_heights": counts.tolist(),
        "freq_hist_data_bar_values": centres.tolist(),
        "logits_hist_data_bar_heights": histogram["counts"],
        "logits_hist_data_bar_values": [
            histogram["low"] + (i + 0.5) * step for i in range(n_bins)
        ],
    }


def _activations(feature, ids, tokens):
    """The records of a feature's examples: the most active ones, and those of the intervals."""
    examples, maximum = feature["examples"], feature["statistics"]["maximum"]
    rows = np.cumsum(np.array(examples["active"]["rows"], dtype=np.int64))
    values = np.array(examples["active"]["values"], dtype=np.float64)
    intervals = examples["intervals"]
    n, total = len(intervals["counts"]), max(sum(intervals["counts"]), 1)
    places = np.repeat(np.arange(n), intervals["sizes"])
    # of the most active ones the bin is -1 by convention: they are no sample of an interval
    shown = [(row, -1.0, -1.0, -1.0) for row in examples["top"]] + [
        (row, k * maximum / n, (k + 1) * maximum / n, intervals["counts"][k] / total)
        for row, k in zip(intervals["rows"], places.tolist(), strict=True)
    ]
    for row, low, high, share in shown:
        first, texts = tokens.around(row)
        codes = np.zeros(len(texts))
        inside = slice(*np.searchsorted(rows, [first, first + len(texts)]))
        codes[rows[inside] - first] = values[inside]
        yield ACTIVATION | {
            "id": ids.key(),
            "tokens": texts,
            "index": str(feature["id"]),
            "layer": ids.source,
            "modelId": ids.model,
            "dataIndex": str(tokens.document(row)),
            "maxValue": float(codes.max()),
            "maxValueTokenIndex": int(codes.argmax()),
            "minValue": float(codes.min()),
            "values": codes.tolist(),
            "creatorId": ids.creator,
            "createdAt": ids.now,
            "binMin": low,
            "binMax": high,
            "binContains": share,
            "qualifyingTokenIndex": int(row - first),
        }


def _explanations(feature, ids, scorers):
    """The record of a feature's name, if it has one."""
    if "label" not in feature:
        return
    scores = feature.get("scores", {})
    found = [scores.get(each["name"], {}).get("score") for each in scorers]
    score = next((each for each in found if each is not None), None)
    yield EXPLANATION | {
        "id": ids.key(),
        "modelId": ids.model,
        "layer": ids.source,
        "index": str(feature["id"]),
        "description": feature["label"],
        "authorId": ids.creator,
        "notes": json.dumps(scores, ensure_ascii=False) if scores else None,
        "scoreV1": 0,
        "scoreV2": score,
        "createdAt": ids.now,
        "updatedAt": ids.now,
    }


class _Tokens:
    """The tokens of the content's table, by row."""

    def __init__(self, table):
        self.table = table
        self.first, self.length = np.array(table["first"]), np.array(table["length"])
        self.starts = np.array([chunk["stretch"] for chunk in table["chunks"]])
        total = np.append(0, np.cumsum(self.length))
        self.place = total[:-1] - np.repeat(total[self.starts], self._n_stretches())

    def _n_stretches(self):
        return np.diff(np.append(self.starts, len(self.first)))

    def around(self, row):
        """First row and texts of the tokens around a row."""
        k = int(np.searchsorted(self.first, row, side="right")) - 1
        first = max(int(self.first[k]), row - N_AROUND)
        stop = min(int(self.first[k] + self.length[k]), row + N_AROUND + 1)
        chunk = self.table["chunks"][int(np.searchsorted(self.starts, k, side="right")) - 1]
        place = int(self.place[k] - self.first[k])
        return first, [chunk["names"][i] for i in chunk["ids"][place + first : place + stop]]

    def document(self, row):
        """Number of the document of a row."""
        return self.table["document"][int(np.searchsorted(self.first, row, side="right")) - 1]


def _write(path, rows):
    # no time and no name, so that equal rows are equal files
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 5, file, mtime=0) as compressed:
        for row in rows:
            compressed.write(encoded(row) + b"\n")
