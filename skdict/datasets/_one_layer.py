"""The one-layer transformer that comes with the package."""

import json
from pathlib import Path

from sklearn.utils import Bunch

_FOLDER = Path(__file__).parent / "data" / "one_layer"


def load_one_layer_transformer():
    """Load a small causal transformer trained on the Python standard library.

    The model has the architecture of "Towards Monosemanticity" (Bricken et al., 2023): one
    layer, 128 dimensions, 4 attention heads, 512 ReLU neurons, a context of 256 tokens and a
    byte-level BPE vocabulary of 4,096. It was trained on the training subset of
    :func:`load_python_corpus`. It comes with the package and nothing is downloaded.

    The activations of its neurons are the output of the module ``"transformer.h.0.mlp.act"``,
    and those of the residual stream after the layer the output of ``"transformer.h.0"``.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        Dictionary-like object with the following attributes.

        model : transformers.GPT2LMHeadModel
            The model, in float32, on the CPU and in evaluation mode. Each call returns a model
            of its own.
        tokenizer : transformers.PreTrainedTokenizerFast
            The tokenizer. It opens each text with the token ``"<|endoftext|>"``, which also
            serves as padding, so give the model the attention mask.
        path : str
            The folder that holds both, for ``from_pretrained``.
        training : dict
            How the model was trained: "held_out_loss" (nats per token on the test subset, as
            stored), "held_out_loss_by_epoch", "n_training_tokens", "n_held_out_tokens",
            "epochs" and "seed".

    Raises
    ------
    ImportError
        If transformers is not installed.

    Examples
    --------
    >>> import torch
    >>> from skdict.datasets import load_one_layer_transformer
    >>> bunch = load_one_layer_transformer()
    >>> inputs = bunch.tokenizer("def __init__(", return_tensors="pt")
    >>> with torch.no_grad():
    ...     logits = bunch.model(**inputs).logits
    >>> bunch.tokenizer.decode(logits[0, -1].argmax())
    'self'
    """
    from .._core.language.loading import import_transformers, no_progress_bar  # imports torch

    transformers = import_transformers("load_one_layer_transformer")
    with no_progress_bar():
        model = transformers.GPT2LMHeadModel.from_pretrained(
            _FOLDER, dtype="float32", local_files_only=True
        )
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
        _FOLDER, local_files_only=True
    )
    return Bunch(
        model=model.eval(),
        tokenizer=tokenizer,
        path=str(_FOLDER),
        training=json.loads((_FOLDER / "training.json").read_text(encoding="utf-8")),
    )
