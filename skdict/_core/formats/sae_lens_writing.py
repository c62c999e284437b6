"""Files of SAELens 6 for our dictionaries; its `SAE.load_from_disk` gives our codes."""

import torch

from ..coding import Encoder
from ..models.architectures import BatchTopK, Gated, Matryoshka
from .tensors import FormatError
from .writing import exported, write_json

# Of SAELens, whose form this is.
VERSION = "6.54.12"
# Densities are written as logarithms of so much more, as SAELens does.
LEAST_DENSITY = 1e-10


def write(record, folder):
    """Write cfg.json, sae_weights.safetensors and, of known densities, sparsity.safetensors.

    Parameters
    ----------
    record : Record
    folder : Path

    Raises
    ------
    ValueError
        If SAELens has nothing that gives the same codes.
    """
    from safetensors.torch import save_file

    dictionary = record.dictionary
    kind = _kind(dictionary)
    tensors, subtracts = _tensors(dictionary, kind)
    n, d = dictionary.encoder.weight.shape
    hook = record.activation.get("hook") or ""
    is_heads = record.input_shape is not None and hook.endswith("_z")
    config = {
        "architecture": kind,
        "d_in": d,
        "d_sae": n,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": subtracts,
        "normalize_activations": _normalization(dictionary.normalization),
        "reshape_activations": "hook_z" if is_heads else "none",
        "metadata": _metadata(record, n),
    }
    if "topk" in kind:
        config |= {"k": dictionary.encoder.n_largest, "rescale_acts_by_decoder_norm": False}
    if "transcoder" in kind:
        config["d_out"] = dictionary.shape[1]
    save_file(tensors, folder / "sae_weights.safetensors", {"format": "pt"})
    density = record.attributes.get("feature_density_")
    if density is not None:
        density = torch.as_tensor(density, dtype=torch.float64, device="cpu")
        logarithm = (density + LEAST_DENSITY).log10().float()
        save_file({"sparsity": logarithm}, folder / "sparsity.safetensors", {"format": "pt"})
    write_json(folder / "cfg.json", config)


def _kind(dictionary):
    """The architecture of SAELens that selects as an encoder does."""
    encoder = dictionary.encoder
    if not isinstance(encoder, Encoder):
        _refuse("codes that are not those of an encoder")
    if encoder.divisor is not None and encoder.n_largest is not None:
        _refuse(
            "codes in other units than those they are selected by (code_scale_). Load it with "
            "units='source'"
        )
    if dictionary.skip is not None and not dictionary.is_transcoder:
        _refuse("a linear map beside an autoencoder")
    has_threshold = encoder.threshold is not None and bool((encoder.threshold != 0).any())
    if encoder.selection == "absolute" and not dictionary.is_transcoder:
        return "abstopk"
    if encoder.selection != "positive":
        _refuse(f"the selection {encoder.selection!r} of codes")
    if encoder.n_largest is not None and (has_threshold or dictionary.is_transcoder):
        _refuse("the largest entries of a transcoder, or of those above a threshold")
    if dictionary.is_transcoder:
        names = ["jumprelu"] * has_threshold + ["skip"] * (dictionary.skip is not None)
        return "_".join([*names, "transcoder"])
    if encoder.n_largest is not None:
        return "topk"
    return "jumprelu" if has_threshold else "standard"


def _tensors(dictionary, kind):
    """Its tensors by SAELens' names, and whether b_dec is subtracted from the input."""
    intercept = dictionary.intercept
    offset = intercept if dictionary.offset is None else dictionary.offset
    # another offset is folded into the bias: by the smaller of the two changes
    subtracts = not dictionary.is_transcoder and bool((intercept - offset).norm() <= offset.norm())
    out = exported(dictionary, intercept if subtracts else None)
    tensors = {
        "W_enc": out.encoder.T.contiguous(),
        "b_enc": out.encoder_bias,
        "W_dec": out.decoder,
        "b_dec": out.decoder_bias,
    }
    if kind.startswith("jumprelu"):
        tensors["threshold"] = out.threshold
    if dictionary.skip is not None:
        tensors["W_skip"] = dictionary.skip.detach().to("cpu", torch.float32).contiguous()
    return tensors, subtracts


def _normalization(rows):
    if rows is None:
        return "none"
    if rows.kind == "layer_norm" and (rows.eps, rows.ddof) == (1e-5, 1):
        return "layer_norm"
    if rows.kind == "row_norm" and rows.eps == 0:
        return "constant_norm_rescale"
    return _refuse(f"{rows}")


def _metadata(record, n):
    """What SAELens keeps of where and how a dictionary was trained, with what it would lose."""
    known, trained = record.activation, {}
    architecture = record.architecture
    if isinstance(architecture, BatchTopK):
        is_nested = isinstance(architecture, Matryoshka)
        details = {"k": architecture.k}
        if is_nested:
            details["matryoshka_widths"] = [
                max(1, round(prefix * n)) for prefix in architecture.prefixes
            ]
        trained = {
            "training_architecture": "matryoshka_batchtopk" if is_nested else "batchtopk",
            "training_architecture_details": details,
        }
    elif isinstance(architecture, Gated):
        trained = {"training_architecture": "gated"}
    excluded = known.get("excluded_tokens")
    if excluded and all(isinstance(token, str) for token in excluded):
        excluded = True  # names of special tokens; it takes ids, or all special tokens
    options = {"center_writing_weights": True} if known.get("transform") == "centre_rows" else {}
    if known.get("model_revision") is not None:
        options["revision"] = known["model_revision"]
    return {
        "model_name": known.get("model"),
        "hook_name": known.get("hook"),
        "hf_hook_name": _module(known, "layer", "side"),
        "hook_name_out": known.get("hook_out"),
        "hf_hook_name_out": _module(known, "target_layer", "target_side"),
        "hook_layer": known.get("layer_number"),
        "hook_head_index": known.get("head"),
        "context_size": known.get("context_size"),
        "prepend_bos": known.get("prepend_bos"),
        "exclude_special_tokens": excluded,
        "seqpos_slice": known.get("positions"),
        "model_from_pretrained_kwargs": options or None,
        "sae_lens_version": VERSION,
        **trained,
    }


def _module(known, layer, side):
    return known.get(layer) and f"{known[layer]}.{known.get(side) or 'output'}"


def _refuse(what):
    raise FormatError(f"SAELens cannot hold {what}.")
