"""The content of a page: what panels gather, and what is said of the dictionary and all of it."""

import re
from datetime import date

import numpy as np
import torch
from scipy.linalg import eigh

import skdict

from ..codes._tokens import writable
from ._schema import VERSION, Ragged, encoded_features, listed
from .panels import all_panels

DENSITY_WIDTH = 0.25  # of a bin of log10 densities
N_RAISED = 5  # raised logits in the index
# Up to this density, and from so many active rows on, features come first.
SPARSE, N_EVIDENCE = 0.05, 10


def gather_content(context, names, *, title, provenance, positions, steering):
    """Gather the content.

    Parameters
    ----------
    context : Context
    names : Names
    title : str
    provenance : dict
        What is known beyond the codes; it is shown first.
    positions : ndarray of shape (n_components, 2) or None
        Places on the map; principal components of the atoms by default.
    steering : mapping
        Samples of features.

    Returns
    -------
    content : dict
        See `_schema`.
    """
    panels = all_panels()
    columns = {name: panel.gather(context) for name, panel in panels.items()}
    page = {}
    for panel in panels.values():
        if hasattr(panel, "gather_page"):
            page |= panel.gather_page(context)
    columns = {name: of_panel for name, of_panel in columns.items() if of_panel}
    index = _index(context, names, columns)
    heads = {"id": context.columns, "label": names.labels, "scores": names.columns()}
    if steering:
        heads["steering"] = _samples(steering, context.columns)
    return {
        "version": VERSION,
        "title": writable(str(title)),
        "unit": _unit(context),
        "provenance": _provenance(context.codes, provenance),
        "dictionary": _dictionary(context, positions),
        "scorers": names.scorers,
        "missing": context.missing,
        "index": index,
        "names": _mentioned(names, columns, page["texts"]),
        "features": encoded_features(heads | columns),
        **page,
    }


def _samples(steering, columns):
    """Samples of each feature, strength by strength; None for features that have none."""
    found = []
    for j in columns.tolist():
        found.append(None)
        if j in steering:
            pairs = sorted(steering[j].items())
            texts = [[each] if isinstance(each, str) else list(each) for _, each in pairs]
            found[-1] = {
                "strengths": listed(np.array([strength for strength, _ in pairs], dtype=float)),
                "texts": [[writable(text) for text in each] for each in texts],
            }
    return found


def _unit(context):
    if context.pictures is not None:
        return "image"
    document = context.tokens["document"]
    return "document" if (np.diff(document) != 0).all() else "token"


def _dictionary(context, positions):
    codes = context.codes
    rows_with = _rows_with(codes)
    width = max(1, -(-len(rows_with) // 40))
    padded = np.append(rows_with, np.zeros(-len(rows_with) % width, dtype=np.int64))
    return {
        "n_components": context.n_components,
        "n_rows": codes.n_rows,
        "n_counted": codes.n_counted,
        "n_active": codes.moments.count.tolist(),
        "densities": density_histogram(codes.moments.count / max(codes.n_counted, 1)),
        "l0": {"low": 0, "width": width, "counts": padded.reshape(-1, width).sum(axis=1).tolist()},
        "map": _map(context, positions),
    }


def _rows_with(codes):
    """Number of rows that count with 0, 1, 2, ... active features."""
    found = np.zeros(1, dtype=np.int64)
    for first, block in codes.blocks():
        counted = codes.counted[first : first + block.shape[0]]
        counts = np.bincount(np.diff(block.indptr)[counted], minlength=len(found))
        counts[: len(found)] += found
        found = counts
    return found


def density_histogram(density):
    """Histogram of log10 densities, and the number of dead features."""
    alive = np.log10(density[density > 0])
    low = np.floor(alive.min(initial=-1))
    edges = np.arange(low, DENSITY_WIDTH, DENSITY_WIDTH)
    counts, _ = np.histogram(alive, bins=edges)
    return {
        "low": float(low),
        "width": DENSITY_WIDTH,
        "counts": counts.tolist(),
        "n_dead": int((density == 0).sum()),
    }


def _map(context, positions):
    """Places of the page's features in two dimensions."""
    name = "map"
    if positions is not None:
        places = np.asarray(positions, dtype=np.float64)
        if places.shape != (context.n_components, 2):
            raise ValueError(
                f"positions must have shape ({context.n_components}, 2), a place for each feature "
                f"of the dictionary, but has shape {places.shape}."
            )
        places = places[context.columns]
    elif context.atoms is not None and min(context.atoms.shape) > 2 and len(context.columns) > 2:
        places, name = _principal(context.atoms, context.columns), "principal components"
    else:
        return None
    shown = np.isfinite(places).all(axis=1)
    x, y = (listed(column, 3) for column in places[shown].T)
    return {"name": name, "id": context.columns[shown].tolist(), "x": x, "y": y}


def _principal(atoms, columns):
    """The two greatest principal components of unit atoms, nan for zero atoms."""
    atoms = atoms[columns]
    norm = np.linalg.norm(atoms, axis=1, keepdims=True)
    atoms = np.divide(atoms, norm, out=np.zeros_like(atoms), where=norm > 0)
    atoms -= atoms.mean(axis=0)
    d = atoms.shape[1]
    _, vectors = eigh(atoms.T @ atoms, subset_by_index=[max(d - 2, 0), d - 1])
    axes = np.zeros((d, 2))  # a single column has no second axis
    axes[:, : vectors.shape[1]] = vectors[:, ::-1]
    axes *= np.sign(axes[abs(axes).argmax(axis=0), [0, 1]])  # eigenvectors have any sign
    return np.where(norm > 0, atoms @ axes, np.nan)


def _provenance(codes, given):
    """What is known of the model, the dictionary and the corpus, in the order to show it."""
    known = dict(codes.provenance)
    found = {}
    if "model" in known:
        found["model"] = _without_folders(known["model"])
    if "layer" in known:
        side = known.get("side", "output")
        found["layer"] = known["layer"] + ("" if side == "output" else f" ({side})")
    if "dictionary" in known:
        kind = known.get("architecture")
        found["dictionary"] = known["dictionary"] + (f", {kind}" if kind else "")
    found["features"] = codes.n_components
    found["L0"] = float(codes.moments.count.sum() / max(codes.n_counted, 1))
    if "explained_variance" in known:
        found["explained variance"] = known["explained_variance"]
    n_documents = int((np.diff(codes.tokens["document"]) != 0).sum() + 1)
    of, rows = ("texts", "tokens") if "token" in codes.tokens else ("samples", "rows")
    found["corpus"] = f"{n_documents:,} {of}" + (
        f", {codes.n_rows:,} {rows}" if n_documents < codes.n_rows else ""
    )
    if codes.n_counted < codes.n_rows:
        rules = ", ".join(f"{name} {n:,}" for name, n in known.get("left_out", {}).items())
        found["left out"] = f"{codes.n_rows - codes.n_counted:,} {rows}" + (
            f" ({rules})" if rules else ""
        )
    found |= given or {}
    found["made"] = str(known.get("date", date.today().isoformat()))[:10]
    versions = {"skdict": skdict.__version__, "torch": torch.__version__}
    versions |= known.get("versions", {})
    found["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return {writable(str(name)): _json_value(value) for name, value in found.items()}


def _without_folders(text):
    """A text whose absolute paths are cut to their last part: folders are nobody's business."""
    return re.sub(r"(?<!\S)(?:/|[A-Za-z]:\\)\S*[/\\](?=[^/\\\s])", "", text)


def _json_value(value):
    if isinstance(value, bool | int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return listed(np.array([value]))[0]
    return writable(str(value))


def _index(context, names, columns):
    """The list of features, column by column."""
    statistics = context.statistics
    effect = columns.get("effects", {}).get("mean", np.full(len(context.columns), np.nan))
    raised = columns.get("logits", {}).get("raised", {}).get("tokens")
    score = names.first_score()
    index = {
        "id": context.columns.tolist(),
        "label": names.labels,
        "score": listed(score),
        "density": listed(statistics.density),
        "maximum": listed(statistics.maximum),
        "effect": listed(effect),
        "words": context.words,
        "rank": _ranks(statistics, names.labels, score, effect),
    }
    if raised is not None:
        index["raised"] = raised[:, :N_RAISED].tolist()
    return index


def _ranks(statistics, labels, score, effect):
    """The order that the page opens with.

    First features with a name that are neither dense (active on more than 5 % of the rows) nor
    rare (on fewer than ten), then those without a name, then the dense and the rare ones, at last
    those that are never active. Within these, by score, then by the size of the effect, then by
    density.
    """
    named = np.array([label is not None for label in labels])
    odd = (statistics.density > SPARSE) | (statistics.n_active < N_EVIDENCE)
    group = np.select([statistics.n_active == 0, odd, named], [3, 2, 0], default=1)
    by = (-statistics.density, -abs(np.nan_to_num(effect)), -np.nan_to_num(score, nan=-np.inf))
    ranks = np.empty(len(group), dtype=np.int64)
    ranks[np.lexsort((*by, group))] = np.arange(len(group))
    return ranks.tolist()


def _mentioned(names, columns, texts):
    """Names of features that are on the page only as a neighbour or in a text."""
    mentioned = {j for text in texts for features in text["features"] for j in features}
    for each in columns.get("neighbours", {}).values():
        if isinstance(each["features"], Ragged):
            mentioned.update(np.unique(each["features"].values).tolist())
    return {str(j): name for j, name in names.others.items() if j in mentioned}
