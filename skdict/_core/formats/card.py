"""The card of a dictionary on a hub: README.md with what is known of it."""

import json

TAGS = ("sparse-autoencoder", "dictionary-learning", "mechanistic-interpretability")
# Numbers of a card: attributes, with their names there. Held-out ones come first.
MEASURED = {
    "L0": ("validation_l0_", "train_l0_"),
    "Explained variance": ("validation_explained_variance_", "train_explained_variance_"),
    "Loss recovered": ("loss_recovered_",),
}


def card_of(record, repo_id="owner/name"):
    """The text of a model card.

    Parameters
    ----------
    record : Record
    repo_id : str
        Where it will be.

    Returns
    -------
    text : str
        Markdown behind the metadata that hubs read, in YAML.
    """
    n_components, n_features = record.dictionary.shape
    activation = {name: value for name, value in record.activation.items() if value is not None}
    source = {name: value for name, value in record.source.items() if value is not None}
    metadata = {"library_name": "skdict", "tags": list(TAGS)}
    for key, value in (
        ("base_model", activation.get("model")),
        ("license", source.get("license")),
    ):
        if isinstance(value, str):
            metadata[key] = value
    # JSON is YAML
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in metadata.items())
    kind = "codes" if record.architecture is None else record.architecture.name
    parts = [
        f"---\n{front}\n---\n",
        f"# Dictionary of {n_components} atoms for {n_features} columns ({kind})\n",
        "Sparse codes of a model's activations, with skdict:\n",
        _loading_lines(repo_id),
        _table("Measured", measured(record)),
        _table("Trained on", activation),
        _table("Source", {name: value for name, value in source.items() if _is_short(value)}),
    ]
    return "\n".join(part for part in parts if part)


def measured(record):
    """Numbers that say how good a dictionary is, by the names that a card has for them."""
    attributes, found = record.attributes, {}
    for name, candidates in MEASURED.items():
        for attribute in candidates:
            if attributes.get(attribute) is not None:
                where = " (held-out samples)" if attribute.startswith("validation_") else ""
                found[name + where] = f"{float(attributes[attribute]):.4g}"
                break
    return found


def _loading_lines(repo_id):
    return (
        "```python\n"
        "from skdict.io import load_dictionary\n\n"
        f'dictionary = load_dictionary("{repo_id}")  # or a folder with these files\n'
        "codes = dictionary.transform(activations)\n"
        "```\n"
    )


def _table(title, rows):
    if not rows:
        return ""
    lines = [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join([f"## {title}\n", "| | |", "|---|---|", *lines, ""])


def _cell(value):
    return " ".join(str(value).split()).replace("|", "\\|")


def _is_short(value):
    return isinstance(value, str | int | float)
