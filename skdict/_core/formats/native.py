"""skdict's own: config.json, model.safetensors and README.md.

The meaning of a key never changes within a ``format_version``; a reader refuses higher ones, and
reads all lower ones.
"""

import json
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import skdict

from ..coding import Codebook, Encoder
from ..coding.selection import SELECTIONS
from ..dictionary import Dictionary
from ..normalization import RowNormalization
from .base import Format, Record, register
from .card import card_of
from .packing import name_of, pack, unpack
from .tensors import FormatError

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
FORMAT_VERSION = 1
# What the results may depend on: its versions are kept.
VERSIONS_OF = ("torch", "numpy", "scikit-learn", "safetensors")
# Tensors of a dictionary, by the names of the estimator's attributes.
OF_DICTIONARY = {
    "components_": "components",
    "intercept_": "intercept",
    "input_offset_": "offset",
    "component_norms_": "norms",
    "skip_coef_": "skip",
}
OF_ENCODER = {
    "encoder_coef_": "weight",
    "encoder_intercept_": "bias",
    "threshold_": "threshold",
    "code_scale_": "divisor",
}


@register("skdict")
class Native(Format):
    """Files of skdict itself."""

    description = "skdict: everything, with what score and partial_fit go on from"
    looks = "config.json, model.safetensors"
    writes = True

    @staticmethod
    def detect(files):
        if CONFIG not in files or TENSORS not in files:
            return False
        return files.json(CONFIG).get("format") == "skdict"

    @staticmethod
    def write(record, folder):
        from safetensors.torch import save_file

        dictionary, tensors = record.dictionary, {}
        encoder, normalization = dictionary.encoder, dictionary.normalization
        _take_tensors(dictionary, OF_DICTIONARY, tensors)
        architecture = dictionary.architecture
        config = {
            "format": "skdict",
            "format_version": FORMAT_VERSION,
            "needs_skdict": "0.1.0",  # the first release that reads this format_version
            "versions": versions(),
            "class": record.kind,
            "alpha": pack(dictionary.alpha, "alpha", tensors),
            "is_transcoder": dictionary.is_transcoder,
            "normalization": None if normalization is None else normalization._asdict(),
            "encoder": _written_encoder(encoder, tensors),
        }
        if architecture is not None:
            config["architecture"] = {
                "name": name_of(architecture),
                "params": pack(architecture.get_params(), "architecture", tensors),
                "state": pack(dictionary.state, "architecture", tensors),
            }
        for name in ("params", "attributes", "source", "activation", "state"):
            config[name] = pack(getattr(record, name), name, tensors)
        config["input_shape"] = pack(record.input_shape, "input_shape", tensors)
        config["group_sizes"] = pack(record.group_sizes, "group_sizes", tensors)
        metadata = {"format": "pt", "skdict": skdict.__version__}
        save_file(_each_its_own(tensors), str(folder / TENSORS), metadata=metadata)
        text = json.dumps(config, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        (folder / CARD).write_text(card_of(record), encoding="utf-8")

    @staticmethod
    def read(files, request):
        config = files.json(CONFIG)
        _check_version(config)
        for name in ("layer", "components"):
            if getattr(request, name) is not None:
                raise FormatError(
                    f"{config.where}: {name}={getattr(request, name)!r} is not available for "
                    "dictionaries of skdict, which hold one layer and are read whole."
                )
        tensors = files.safetensors(TENSORS)
        try:
            return _record(config, tensors, request)
        except RecursionError:
            raise FormatError(f"{config.where} is nested too deeply.") from None


def _record(config, tensors, request):
    architecture, state = None, {}
    if "architecture" in config:
        part = config.part("architecture")
        written = {"$architecture": part.need("name", str), "params": part.need("params", dict)}
        architecture = unpack(written, tensors)
        state = {k: torch.from_numpy(v) for k, v in unpack(part.need("state"), tensors).items()}
    parts = {
        field: tensors.take(name).clone()
        for name, field in OF_DICTIONARY.items()
        if name in tensors
    }
    for name in ("components_", "intercept_"):
        if name not in tensors:
            raise FormatError(f"{tensors.where} has no tensor {name!r}.")
    encoder = _read_encoder(config, tensors, parts["components"])
    normalization = config.get("normalization", kinds=dict)
    dictionary = Dictionary(
        encoder=encoder,
        alpha=unpack(config.get("alpha"), tensors),
        architecture=architecture,
        state=state,
        normalization=None if normalization is None else _normalization(normalization, config),
        is_transcoder=config.get("is_transcoder", False, bool),
        **parts,
    )
    check_shapes(dictionary, tensors.where)
    plain = {
        name: unpack(config.get(name, {}, dict), tensors)
        for name in ("params", "attributes", "source", "activation", "state")
    }
    record = Record(
        dictionary,
        architecture,
        kind=config.get("class", "SparseAutoencoderDictionary", str),
        input_shape=unpack(config.get("input_shape"), tensors),
        group_sizes=unpack(config.get("group_sizes"), tensors),
        **plain,
    )
    config.get("needs_skdict"), config.get("versions")
    config.provenance()
    tensors.check_all_taken()
    if request.units == "unit" and dictionary.norms is not None:
        record.dictionary = dictionary.in_unit_codes()
    return record


def _check_version(config):
    found = config.count("format_version")
    if found is None or found > FORMAT_VERSION:
        needed = config.get("needs_skdict") or "a newer version"
        raise FormatError(
            f"{config.where}: format_version={found!r} needs skdict {needed}; this is "
            f"{skdict.__version__}, which reads up to {FORMAT_VERSION}. Upgrade with pip "
            "install -U skdict."
        )


def _take_tensors(owner, names, tensors):
    for name, field in names.items():
        if getattr(owner, field) is not None:
            tensors[name] = getattr(owner, field).detach().cpu()


def _written_encoder(encoder, tensors):
    if isinstance(encoder, Encoder):
        _take_tensors(encoder, OF_ENCODER, tensors)
        return {"kind": "encoder", "k": encoder.n_largest, "selection": encoder.selection}
    if isinstance(encoder, Codebook):
        tensors["codeword_norms_"] = encoder.norms
        return {"kind": "codebook", "sizes": [int(size) for size in encoder.sizes]}
    return None


def _read_encoder(config, tensors, components):
    if config.get("encoder") is None:
        return None
    part = config.part("encoder")
    kind = part.choice("kind", ("encoder", "codebook"))
    if kind == "codebook":
        sizes = part.need("sizes", list)
        if any(type(size) is not int or size < 1 for size in sizes):
            raise FormatError(f"{part.where}: sizes={sizes!r} must be numbers of codewords.")
        if sum(sizes) != len(components):
            raise FormatError(
                f"{part.where}: sizes={sizes!r} must add up to {len(components)}, the components."
            )
        norms = tensors.take("codeword_norms_", (len(components),)).clone()
        return Codebook(components, norms, sizes)
    found = {
        field: tensors.take(name).clone() for name, field in OF_ENCODER.items() if name in tensors
    }
    for name in ("encoder_coef_", "encoder_intercept_"):
        if name not in tensors:
            raise FormatError(f"{tensors.where} has no tensor {name!r}.")
    selection = part.choice("selection", ("positive", *SELECTIONS))
    k = part.count("k")
    if k is not None and k > len(components):
        raise FormatError(f"{part.where}: k={k} is more than the {len(components)} components.")
    return Encoder(**found, n_largest=k, selection=selection)


def _normalization(given, config):
    try:
        normalization = RowNormalization(**given)
    except TypeError as error:
        raise FormatError(f"{config.where}: normalization: {error}.") from None
    if normalization.kind not in ("layer_norm", "row_norm"):
        raise FormatError(
            f"{config.where}: normalization: kind={normalization.kind!r} is not known here."
        )
    return normalization


def check_shapes(dictionary, where):
    """Refuse tensors whose shapes do not fit together.

    Parameters
    ----------
    dictionary : Dictionary
    where : str
        The file, in errors.
    """
    encoder = dictionary.encoder
    if dictionary.components.dim() != 2 or 0 in dictionary.components.shape:
        shape = tuple(dictionary.components.shape)
        raise FormatError(f"{where}: components_ has shape {shape}, expected rows with columns.")
    n, d = dictionary.components.shape
    n_inputs = d
    found = {
        "intercept_": (dictionary.intercept, (d,)),
        "component_norms_": (dictionary.norms, (n,)),
    }
    if isinstance(encoder, Encoder):
        if encoder.weight.dim() == 2 and dictionary.is_transcoder:
            n_inputs = encoder.weight.shape[1]
        found["encoder_coef_"] = encoder.weight, (n, n_inputs)
        found["encoder_intercept_"] = encoder.bias, (n,)
        found["threshold_"] = encoder.threshold, (n,)
        found["code_scale_"] = encoder.divisor, (n,)
    found["input_offset_"] = dictionary.offset, (n_inputs,)
    found["skip_coef_"] = dictionary.skip, (d, n_inputs)
    found |= {f"architecture.{name}": (part, (n,)) for name, part in dictionary.state.items()}
    dtype = dictionary.components.dtype
    for name, (tensor, shape) in found.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise FormatError(
                f"{where}: {name} has shape {tuple(tensor.shape)}, expected {shape}."
            )
        if tensor.dtype != dtype:
            raise FormatError(f"{where}: {name} is {tensor.dtype}, but components_ {dtype}.")


def _each_its_own(tensors):
    """Tensors as safetensors wants them: contiguous, none on the memory of another."""
    seen, found = set(), {}
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def versions():
    """Versions of what has written a file, by name."""
    found = {"skdict": skdict.__version__, "python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of a folder on the path
            continue
    return found
