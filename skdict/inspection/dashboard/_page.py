"""Write the page: a single file, or a folder whose parts are loaded when they are asked for."""

import base64
import gzip
import json
from pathlib import Path

import numpy as np

from ..._core.optional import optional
from ._schema import encoded
from ._tokens import only_stretches
from .panels import all_panels

N_SHARD = 64  # features in a file of a folder
N_TOGETHER = 8  # features that a single file compresses together
_HERE = Path(__file__).parent


def page_pieces(content, features=None):
    """Yield a page that is a single file, in pieces of text.

    Parameters
    ----------
    content : dict
        See `_schema`.
    features : list of int, default=None
        Places of the features to write; all by default.
    """
    general, parts = _parts(content, features, n_shard=N_TOGETHER, inline=True)
    yield from _template().generate(
        title=content["title"],
        csp="script-src 'unsafe-inline'",
        css=_read("templates/page.css"),
        scripts=_scripts(),
        general=_safe(general),
        parts=((name, _packed(part)) for name, part in parts),
    )


def write_folder(content, folder):
    """Write a page as "index.html" and a folder "data" of scripts, which it loads as needed.

    Scripts, because a page that is opened from disk may not read files otherwise.
    """
    general, parts = _parts(content, None, n_shard=N_SHARD)
    (folder / "data").mkdir()
    for name, part in parts:
        path = folder / "data" / f"{name}.js"
        path.write_text(f'arrived("{name}","{_packed(part)}");\n', encoding="utf-8")
    page = _template().render(
        title=content["title"],
        csp="script-src 'unsafe-inline' 'self' file:",
        css=_read("templates/page.css"),
        scripts=_scripts(),
        general=_safe(general),
        parts=(),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _parts(content, features, n_shard, inline=False):
    """What the page needs at once, and an iterator over the names and JSON of what it reads later.

    Returns
    -------
    general : bytes
    parts : iterator of (str, bytes)
        "features-K" with the features of each shard, "tokens-K" with each chunk, and "texts".
    """
    index, every = content["index"], content["features"].encoded
    names = content["names"]
    if features is not None:
        kept = {index["id"][k] for k in features}
        rest = zip(index["id"], index["label"], strict=True)
        names = names | {str(j): label for j, label in rest if j not in kept and label}
        index = {key: [column[k] for k in features] for key, column in index.items()}
        every = [every[k] for k in features]
    tokens, texts = content["tokens"], content["texts"]
    if features is not None:
        tokens = only_stretches(tokens, _shown_rows(every))
    chunks = tokens.get("chunks", [])
    general = {key: value for key, value in content.items() if key not in ("features", "texts")}
    general |= {
        "dictionary": {k: v for k, v in content["dictionary"].items() if k != "n_active"},
        "tokens": {key: value for key, value in tokens.items() if key != "chunks"}
        | {"chunk_starts": [chunk["stretch"] for chunk in chunks]},
        "index": index,
        "names": names,
        "shard": n_shard,
        "texts": ["".join(text["tokens"][:40])[:80] for text in texts],
        "inline": inline,
    }

    def parts():
        for k, start in enumerate(range(0, len(every), n_shard)):
            yield f"features-{k}", b"[" + b",".join(every[start : start + n_shard]) + b"]"
        for k, chunk in enumerate(chunks):
            yield f"tokens-{k}", encoded(chunk)
        if texts:
            yield "texts", encoded(texts)

    return encoded(general), parts()


def _shown_rows(features):
    """Rows of all examples of encoded features."""
    rows = [np.empty(0, np.int64)]
    for feature in map(json.loads, features):
        examples = feature["examples"]
        for kind in (examples, examples["intervals"], examples["near_misses"]):
            rows += [kind[key] for key in ("top", "random", "rows") if key in kind]
    return np.concatenate(rows).astype(np.int64)


def _packed(value):
    """JSON, compressed, in letters; the same for the same JSON."""
    return base64.b64encode(gzip.compress(value, 6, mtime=0)).decode("ascii")


def _safe(value):
    """JSON that neither ends a script nor begins a comment of HTML in it."""
    text = value.decode("utf-8")
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _scripts():
    """The page's program: charts, the panels, and what puts them together."""
    panels = [f"panels/{name}.js" for name in all_panels()]
    return "\n".join(map(_read, ["templates/charts.js", *panels, "templates/app.js"]))


def _read(name):
    return (_HERE / name).read_text(encoding="utf-8")


def _template():
    with optional("jinja2", "FeatureDashboard", '"skdict[plot]"'):
        from jinja2 import Environment, PackageLoader
    loader = PackageLoader("skdict.inspection.dashboard")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    return environment.get_template("page.html.jinja")


def json_pieces(content):
    """The content as JSON in UTF-8, in pieces."""
    rest = {key: value for key, value in content.items() if key != "features"}
    yield encoded(rest)[:-1] + b',"features":['
    every = content["features"].encoded
    for k, feature in enumerate(every):
        yield feature + (b"," if k + 1 < len(every) else b"")
    yield b"]}"
