"""Between fitted estimators and records, which files are read to and written from."""

import copy

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from .._core.coding import Encoder
from .._core.formats import FORMATS, FormatError, Record
from .._core.formats.loading import read
from .._core.models.architectures import make_architecture
from ..utils._files import replacing_folder
from ..utils._warnings import warn
from ._attributes import OF_DICTIONARY, attributes_of
from ._base import STATISTICS
from ._code_statistics import FitStatistics
from ._learned import DRAWN, Stream

# Fitted attributes that have fields of their own in a `Record`.
FIELDS = ("source_", "activation_", "input_shape_", "group_sizes_")

# Stands for the state of a solver that cannot be written down as plain data.
LOST = "lost"


def save(estimator, folder, *, format="skdict", overwrite=False):
    """Write a fitted estimator into a folder, which appears only when it is complete.

    Parameters
    ----------
    estimator : estimator
    folder : Path
    format : str
    overwrite : bool
        Whether the files of a former call may be replaced.
    """
    writing = [name for name, kind in FORMATS.items() if kind.writes]
    if format not in writing:
        raise ValueError(f"format must be one of {writing}, which can be written, not {format!r}.")
    record = record_of(estimator)
    with replacing_folder(folder, overwrite=overwrite) as temporary:
        FORMATS[format].write(record, temporary)
    for caution in [*record.cautions, *_not_written(record.activation, format)]:
        warn(caution)


def _not_written(activation, format):
    """What rows have to be, where a format of another library has no place for it."""
    if format == "skdict":
        return
    scale, transform = activation.get("scale"), activation.get("transform")
    if scale not in (None, 1):
        yield (
            f"The files of format={format!r} do not say that the dictionary reads activations "
            f"multiplied by {scale:.6g} (activation_['scale']): scale them in that library too."
        )
    if transform == "row_norm" or (transform == "centre_rows" and format != "sae_lens"):
        how = "to norm √d each" if transform == "row_norm" else "to mean zero each"
        yield (
            f"The files of format={format!r} do not say that the dictionary reads rows brought "
            f"{how} (activation_['transform']): prepare them so in that library too."
        )


def load(files, request, kind, format="auto"):
    """A fitted estimator of what files hold.

    Parameters
    ----------
    files : Files
    request : Request
    kind : type
        The class of estimators.
    format : str

    Returns
    -------
    estimator : estimator
    """
    record = read(files, format, request)
    for caution in record.cautions:
        warn(caution)
    return estimator_from(record, kind)


def record_of(estimator):
    """All of a fitted estimator that is worth keeping.

    Parameters
    ----------
    estimator : estimator
        Or one that has found its best one by a search.

    Returns
    -------
    record : Record
        On the memory of the estimator. Its attributes have "feature_density_",
        "feature_magnitude_", "noise_variance_" and "n_samples_seen_" where they are known.

    Raises
    ------
    TypeError
        If it is no dictionary, but a pipeline with one.
    """
    if isinstance(estimator, type):
        raise TypeError(f"The class {estimator.__name__} was given: give a fitted estimator.")
    if hasattr(estimator, "fit"):
        check_is_fitted(estimator)
    estimator = getattr(estimator, "best_estimator_", estimator)  # of any search
    if hasattr(estimator, "steps"):
        raise TypeError(
            "Of a Pipeline only the dictionary can be saved: its other steps are not in the "
            "formats. Give the step itself, such as pipeline[-1]."
        )
    if not hasattr(estimator, "dictionary_"):
        raise TypeError(
            f"A fitted SparseAutoencoderDictionary is needed, not {type(estimator).__name__}."
        )
    state, params = estimator.__getstate__(), estimator.get_params(deep=False)  # all plain
    dictionary, architecture = estimator.dictionary_, estimator.dictionary_.architecture
    if architecture is None and isinstance(dictionary.encoder, Encoder):  # attributes set by hand
        architecture = make_architecture(estimator.architecture, dictionary.encoder.n_largest)
    known = {name: value for name, value in state.items() if _is_public(name, params)}
    going_on = {}
    if "_statistics" in state:
        going_on["statistics"] = state["_statistics"]
        if state["_statistics"]["found"] is not None:
            known |= {name: getattr(estimator, name) for name in STATISTICS}
    if "_stream" in state:
        going_on["stream"] = _written_stream(state["_stream"])
    return Record(
        dictionary,
        architecture,
        source=known.pop("source_", {}),
        activation=known.pop("activation_", {}),
        params={name: _plain(value) for name, value in params.items()},
        attributes={k: v for k, v in known.items() if k not in FIELDS},
        kind=type(estimator).__name__,
        state=going_on,
        input_shape=state.get("input_shape_"),
        group_sizes=state.get("group_sizes_"),
    )


def _written_stream(state):
    """A stream's state as far as it can be written down.

    The generator that the atoms were drawn from cannot, and becomes None as the parameter does;
    nor can a solver of another library.
    """
    if state is None:
        return None
    state, beginning = dict(state), dict(state["beginning"])
    if beginning["random_state"] == DRAWN:
        beginning["random_state"] = None
    if not isinstance(state["solver"], dict | None):
        state["solver"] = LOST
    return state | {"beginning": beginning}


def _is_public(name, params):
    is_fitted = name.endswith("_") and not name.startswith("_")
    return is_fitted and name not in params and name not in OF_DICTIONARY


def _plain(param):
    """A parameter that can be written down; None for a generator, which changes as it is used."""
    if isinstance(param, np.random.RandomState) or callable(param):
        return None
    if torch.is_tensor(param):
        return param.detach().cpu().numpy()
    if hasattr(param, "__array__") and not isinstance(param, np.generic):
        return np.asarray(param)
    return param


def estimator_from(record, kind):
    """A fitted estimator with the dictionary of a record.

    Parameters
    ----------
    record : Record
    kind : type
        The class of estimators.

    Returns
    -------
    estimator : estimator
    """
    dictionary, architecture = record.dictionary, record.architecture
    n_components, encoder = len(dictionary.components), dictionary.encoder
    params = {"n_components": n_components, **record.params}
    if architecture is not None and dictionary.architecture is None:  # of another library
        architecture = copy.deepcopy(architecture)
        architecture.complete(n_components, None)
        dictionary.architecture = architecture
        _, dictionary.state = architecture.unfold(encoder.bias, encoder.threshold)
        params |= _named(architecture)
    unknown = params.keys() - kind().get_params(deep=False).keys()
    if unknown:
        raise FormatError(
            f"The files have the parameters {sorted(unknown)}, which {kind.__name__} does not "
            f"know. They were written by {record.kind}, perhaps of a newer version of skdict."
        )
    estimator = kind(**params)
    attributes = {
        "n_features_in_": dictionary.n_inputs,
        "n_iter_": 0,
        "n_steps_": 0,
        "loss_curve_": [],
        "source_": record.source,
        "activation_": record.activation,
        **attributes_of(dictionary),
        **record.attributes,
    }
    for name in ("input_shape", "group_sizes"):
        if getattr(record, name) is not None:
            attributes[f"{name}_"] = getattr(record, name)
    if "statistics" in record.state:  # they give the attributes, also after more samples
        attributes = {k: v for k, v in attributes.items() if k not in STATISTICS}
    attributes |= _going_on(record.state)
    vars(estimator).update(attributes)
    return estimator


def _going_on(state):
    """The attributes that `score` and `partial_fit` go on from, of a record's state."""
    found = {}
    if "statistics" in state:
        found["_statistics"] = FitStatistics.from_state_dict(state["statistics"])
    if "stream" in state:
        stream = state["stream"]
        if stream is not None and stream["solver"] == LOST:
            warn(
                f"The file has no state of solver={stream['kind'][0]!r} to go on from: "
                "partial_fit begins with the atoms that it has, but without what it knew of "
                "former samples."
            )
            stream = stream | {"solver": None}
        found["_stream"] = None if stream is None else Stream.from_state_dict(stream)
    return found


def _named(architecture):
    """Parameters of an estimator that give an architecture: by name where that says it all."""
    plain = type(architecture)()
    k = getattr(architecture, "k", None)
    if k is not None:
        plain.k = k
    if plain != architecture or not hasattr(architecture, "name"):
        return {"architecture": architecture}
    return {"architecture": architecture.name} | ({} if k is None else {"n_nonzero_coefs": k})
