"""Gemma Scope 2 of Gemma 3: params.safetensors and config.json, or a path that says as much.

z = relu(p) [p > θ] with p = x W + c; x̂ = z D + b (+ x A). Nothing is subtracted from x.

Crosscoders and cross-layer transcoders have a file for each layer, params_layer_i.safetensors:
the codes of a layer depend on its own activation alone, and its decoder (n, L, d) writes to all
L layers. A crosscoder is one dictionary, whose rows are the layers one after the other. Of a
cross-layer transcoder one layer is read, a transcoder that writes to L layers one after the other.
Its b and A are those of the file, and so of its own layer: what the transcoders of all layers
reconstruct adds up to what the whole does. Decoders are not summed over layers, as some readers
do: that is no layer's output.
"""

import itertools
import re

import torch

from ..models.architectures import JumpReLU
from .base import Format, Record, register
from .config import Config
from .places import agreed, file_of_layer, number_in
from .tensors import FormatError
from .weights import Weights

TENSORS, PARTS, CONFIG = "params.safetensors", "params_layer_*.safetensors", "config.json"
# Some cross-layer transcoders have their layers as layer_i.safetensors.
OTHER_PARTS = "layer_*.safetensors"
SKIP = "affine_skip_connection"
KIND = re.compile(r"(?:^|/)(resid_post|attn_out|mlp_out|transcoder|crosscoder|clt)(?:_all)?(?=/)")
MODEL = re.compile(r"gemma-scope-2-(\d+[bm])-(pt|it)")
# of each kind: module and side that are read, and those that are written, if they are others
PRE, POST = "pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"
SITES = {
    "resid_post": ("output", None),
    "attn_out": ("self_attn.o_proj.input", None),
    "mlp_out": (POST, None),
    "transcoder": (PRE, POST),
    "clt": (PRE, POST),
}
TOKENS = {"context_size": 1024, "prepend_bos": True, "excluded_tokens": ["pad", "bos", "eos"]}


@register("gemma_scope_2")
class GemmaScope2(Format):
    """Files of Gemma Scope 2."""

    description = "Gemma Scope 2 (Gemma 3): SAEs, transcoders, crosscoders, layers of CLTs"
    looks = "params.safetensors or params_layer_*.safetensors with w_enc, config.json"

    @staticmethod
    def detect(files):
        names = files.ending(TENSORS, PARTS, OTHER_PARTS)
        return bool(names) and "w_enc" in files.tensor_names(names[0])

    @staticmethod
    def read(files, request):
        whole = files.ending(TENSORS)
        if whole:
            name, layer = file_of_layer(files, whole, r"layer_(\d+)_width", request.layer)
            reader = _One(files, name)
        else:
            parts = files.ending(PARTS) or files.ending(OTHER_PARTS)
            folders = {part.rpartition("/")[0] for part in parts}
            if len(folders) > 1:
                raise FormatError(
                    f"{files.where} has several dictionaries, in {', '.join(sorted(folders))}. "
                    "Name the folder of one with path=."
                )
            if _One(files, parts[0]).kind == "crosscoder":
                return _crosscoder(files, _in_order(files, parts), request)
            if len(parts) > 1 and request.layer is None:
                raise FormatError(
                    f"{files.where} is a cross-layer transcoder of {len(parts)} layers, whose "
                    "features all read one layer and write to several. That is not one "
                    "dictionary: load the features of one layer with layer=."
                )
            name, layer = file_of_layer(files, parts, r"layer_(\d+)\.safetensors", request.layer)
            reader = _One(files, name)
        return reader.record(layer, request)


class _One:
    """One file, with what its configuration and its path say of it."""

    def __init__(self, files, name):
        self.tensors, self.full = files.safetensors(name), files.full(name)
        folder = name.rpartition("/")[0]
        config = f"{folder}/{CONFIG}" if folder else CONFIG
        self.config = files.json(config) if config in files else Config({}, "no " + CONFIG)
        self.config.expect("architecture", "jump_relu")
        self.config.get("width"), self.config.get("l0")
        self.reads = self.config.get("hf_hook_point_in", kinds=str)
        self.writes = self.config.get("hf_hook_point_out", kinds=str)
        self.kind = self._kind()
        if not self.reads and self.kind in SITES:
            reads, writes = SITES[self.kind]
            self.reads = "model.layers.{all}." + reads
            self.writes = writes and "model.layers.{all}." + writes

    def _kind(self):
        """A kind of `SITES`, "crosscoder" or "sae"."""
        in_path = KIND.findall(self.full)
        in_path = in_path[-1] if in_path else None
        said = self.config.get("type", kinds=str)
        coarse = in_path if in_path in (None, "transcoder", "crosscoder", "clt") else "sae"
        writes = self.writes is not None and self.writes != self.reads
        found = {CONFIG: said, "the path": coarse}
        if writes and not {said, coarse} & {"clt", "crosscoder"}:
            found["hf_hook_point_out"] = "transcoder"
        kind = agreed(self.tensors.where, "kind", found) or "sae"
        n_axes = len(self.tensors.shape("w_dec")) if "w_dec" in self.tensors else 2
        if kind not in ("sae", "transcoder", "crosscoder", "clt"):
            raise FormatError(f"{self.config.where}: type={kind!r} cannot be expressed here.")
        if (n_axes == 3) != (kind in ("crosscoder", "clt")):
            raise FormatError(
                f"{self.tensors.where}: w_dec has {n_axes} axes, which is not that of a {kind}. "
                "Files of several layers need a config.json that says type='clt' or "
                "'crosscoder', or the folder of that name."
            )
        return in_path if kind == "sae" and in_path else kind

    def n_latents(self):
        """How many latents the file has, without reading them."""
        shape = self.tensors.shape("w_enc") if "w_enc" in self.tensors else ()
        if len(shape) != 2:
            raise FormatError(f"{self.tensors.where}: w_enc must be a matrix.")
        return shape[1]

    def parts(self, rows):
        """Encoder (n, d), bias, decoder (n, ...), threshold, decoder's bias, and skip or None."""
        tensors = self.tensors
        weight = tensors.take("w_enc", (None, None), rows=rows, axis=1)
        d, n = tensors.shape("w_enc")
        shape = (n, None, None) if self.kind in ("crosscoder", "clt") else (n, None)
        atoms = tensors.take("w_dec", shape, rows=rows)
        width = atoms.shape[-1]
        skip = tensors.take(SKIP, (d, width)) if self._has_skip() else None
        found = (
            weight.T,
            tensors.take("b_enc", (n,), rows=rows),
            atoms,
            tensors.take("threshold", (n,), rows=rows),
            tensors.take("b_dec", (width,)),
            None if skip is None else skip.T,
        )
        tensors.check_all_taken()
        return found

    def _has_skip(self):
        said = self.config.get("affine_connection", kinds=bool)
        if re.search(r"_affine/[^/]*$", self.full):
            said = agreed(self.tensors.where, "skip", {CONFIG: said, "the path": True})
        has = SKIP in self.tensors
        if said is not None and said != has:
            raise FormatError(
                f"{self.tensors.where} has {'a' if has else 'no'} tensor {SKIP!r}, but "
                f"affine_connection is {said} by {CONFIG} or the path."
            )
        return has

    def record(self, layer, request):
        """The dictionary of a file: a sparse autoencoder, a transcoder, or a layer of a CLT."""
        hook = number_in(r"layers\.(\d+)\.", self.reads or "")
        found = {"the path or layer=": layer, f"hf_hook_point_in of {CONFIG}": hook}
        layer = agreed(self.tensors.where, "layer", found)
        weight, bias, atoms, threshold, intercept, skip = self.parts(request.components)
        activation = {"layer_number": layer, **self._place("layer", "side", self.reads, layer)}
        if self.kind == "attn_out" or (self.reads or "").endswith("o_proj.input"):
            activation["heads"] = True
        if self.kind == "clt":
            n_targets = atoms.shape[1]
            if layer is None or layer >= n_targets:
                raise FormatError(
                    f"{self.tensors.where} writes to {n_targets} layers, but is of layer {layer}."
                )
            atoms, targets = atoms.flatten(1), self._layers(self.writes, range(n_targets))
            if targets is not None:
                activation["target_layers"], activation["target_side"] = targets
            intercept = _at(intercept, layer, n_targets)
            skip = None if skip is None else _at(skip, layer, n_targets)
        elif self.kind == "transcoder":
            activation |= self._place("target_layer", "target_side", self.writes, layer)
        weights = Weights(
            encoder=weight,
            encoder_bias=bias,
            decoder=atoms,
            decoder_bias=intercept,
            threshold=threshold,
            skip=skip,
            is_transcoder=self.kind in ("transcoder", "clt"),
        )
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=self.tensors.where),
            JumpReLU(),
            source=self.source(),
            activation=activation | self.model(),
        )

    def source(self):
        return {"library": "gemma_scope_2", "config": self.config.provenance()}

    def model(self):
        """The name of the model on the hub, and the tokens that were left out."""
        name = self.config.get("model_name", kinds=str)
        in_path = MODEL.findall(self.full)
        if name is None and in_path:
            name = "gemma-3-{}-{}".format(*in_path[-1])
        if name is None:
            return TOKENS
        name = name.replace("gemma-v3", "gemma-3")
        if "270m" in name:  # the base model has no suffix there
            name = name.removesuffix("-pt")
        return {"model": name if "/" in name else f"google/{name}", **TOKENS}

    @staticmethod
    def _place(module, side, hook, layer):
        """A hook such as model.layers.3.mlp.output, as names of a module and of its side."""
        if hook is None or ("{" in hook and layer is None):
            return {}
        if layer is not None:
            hook = re.sub(r"(?<=layers\.)(\{[^}]*\}|\d+)", str(layer), hook)
        place, _, end = hook.rpartition(".")
        return {module: place, side: end} if end in ("input", "output") else {}

    def _layers(self, hook, layers):
        """Modules of several layers, and their side; None if they are not known."""
        places = [self._place("layer", "side", hook, layer) for layer in layers]
        if not places or not all(places):
            return None
        return [place["layer"] for place in places], places[0]["side"]

    def layers_read(self):
        """The layers that a crosscoder reads, as `_layers`, by the configuration or the path."""
        listed = re.search(r"\{(\d+(?:, *\d+)*)\}", self.reads or "")
        in_path = re.search(r"layer_(\d+(?:_\d+)+)_width", self.full)
        numbers = agreed(
            self.tensors.where,
            "list of layers",
            {
                "hf_hook_point_in": listed and [int(n) for n in listed[1].split(",")],
                "the path": in_path and [int(n) for n in in_path[1].split("_")],
            },
        )
        if numbers is None:
            return None, None
        hook = self.reads or "model.layers.{all}.output"
        return numbers, self._layers(hook, numbers)


def _crosscoder(files, names, request):
    """All layers of a crosscoder, as one dictionary of rows with the layers side by side."""
    if request.layer is not None:
        raise FormatError(
            f"{files.where} is a crosscoder, which reads all of its {len(names)} layers: leave "
            "layer= out."
        )
    readers = [_One(files, name) for name in names]
    rows, order = _rows_of_parts(readers, request.components)
    encoders, biases, atoms, thresholds, intercepts, skips = zip(
        *(reader.parts(of_part) for reader, of_part in zip(readers, rows, strict=True)),
        strict=True,
    )
    first, n_layers = readers[0], len(readers)
    numbers, layers = first.layers_read()
    widths = {len(intercept) for intercept in intercepts} | {e.shape[1] for e in encoders}
    sizes = {part.shape[1] for part in atoms}
    if sizes != {n_layers} or len(widths) != 1:
        raise FormatError(
            f"{first.tensors.where}: the crosscoder has {n_layers} files, but its decoders write "
            f"to {sorted(sizes)} layers, of widths {sorted(widths)}."
        )
    skip = None
    if any(part is not None for part in skips):
        width = widths.pop()
        zeros = torch.zeros(width, width, device="cpu", dtype=torch.float32)
        skip = torch.block_diag(*(zeros if part is None else part for part in skips))
    weights = Weights(
        encoder=torch.block_diag(*encoders)[order],
        encoder_bias=torch.cat(biases)[order],
        decoder=torch.cat(atoms).flatten(1)[order],
        decoder_bias=torch.cat(intercepts),
        threshold=torch.cat(thresholds)[order],
        skip=skip,
    )
    activation, cautions = {}, []
    if numbers is not None and len(numbers) != n_layers:
        cautions = [
            f"{first.tensors.where} is of {n_layers} layers, but its configuration or its path "
            f"names {numbers}: which layers those are is not known."
        ]
    elif layers is not None:
        activation = {"layers": layers[0], "side": layers[1]}
    return Record(
        weights.dictionary(units=request.units, dtype=request.dtype, where=files.where),
        JumpReLU(),
        source=first.source(),
        activation=activation | first.model(),
        input_shape=(n_layers, len(intercepts[0])),
        cautions=cautions,
    )


def _rows_of_parts(readers, components):
    """Which latents to read of each file, and where those asked for are among them."""
    if components is None:
        return [None] * len(readers), slice(None)
    starts = [0, *itertools.accumulate(reader.n_latents() for reader in readers)]
    chosen = [int(component) for component in components]
    if not all(0 <= component < starts[-1] for component in chosen):
        raise FormatError(f"components must be between 0 and {starts[-1] - 1}, not {chosen}.")
    spans = list(itertools.pairwise(starts))
    asked = [[j for j, c in enumerate(chosen) if start <= c < end] for start, end in spans]
    rows = [[chosen[j] - start for j in of] for of, (start, _) in zip(asked, spans, strict=True)]
    return rows, torch.tensor([j for of in asked for j in of], device="cpu").argsort()


def _in_order(files, names):
    """Files of layers by their number, of which none may be missing."""
    numbers = {number_in(r"layer_(\d+)\.safetensors", name): name for name in names}
    if set(numbers) != set(range(len(names))):
        raise FormatError(
            f"{files.where} must have the files of the layers 0 to {len(names) - 1}, but has "
            f"{', '.join(map(str, sorted(numbers)))}."
        )
    return [numbers[number] for number in range(len(names))]


def _at(tensor, layer, n_layers):
    """A tensor of one layer's output, as that of n layers one after the other, with zeros."""
    whole = tensor.new_zeros(n_layers, *tensor.shape)
    whole[layer] = tensor
    return whole.flatten(0, 1)
