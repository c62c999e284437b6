"""saev of Stevens and others: sae.pt, a line of JSON and then what torch.save writes.

Version 0.1.0 has its configuration in the line: z = relu((x - b) W + c). Later ones have a schema
in it, and subtract nothing. With p = x W + c: z = relu(p), or p where it is above θ, or the k
largest though they be negative.
"""

from ..models.architectures import BatchTopK, ReLU, TopK
from .base import Format, Record, register
from .config import Config
from .tensors import FormatError
from .weights import Weights

NEWEST = 5
KINDS = ("Relu", "TopK", "BatchTopK")
# In these the largest of each row were kept, whatever the name says.
BATCHES_BY_ROW = (1, 2)
OF_TRAINING = ("normalize_w_dec", "sparsity_coeff", "sparsity", "ghost_grads", "use_ghost_grads")


@register("saev")
class Saev(Format):
    """Files of saev."""

    description = "saev: 0.1.0 and schemas 1 to 5"
    looks = "one .pt that begins with a line of JSON"

    @staticmethod
    def detect(files):
        found = files.ending("*.pt")
        if len(found) != 1:
            return False
        with open(files.path(found[0]), "rb") as file:
            return file.read(1) == b"{"

    @staticmethod
    def read(files, request):
        name = files.one("*.pt")
        described = files.describe(name)
        request.refuse_layer(described)
        header, start = files.first_line(name)
        state = files.torch_tensors(name, start=start)
        schema = header.get("schema", None, int)
        config, kind, inner = (header, "Relu", Config({}, described))
        if schema is not None:
            config, kind, inner = _of_schema(header, schema)
        k, threshold, selection = None, None, "positive"
        if kind == "TopK" or (
            kind == "BatchTopK"
            and schema in BATCHES_BY_ROW
            and "activation.threshold" not in state
        ):
            request.refuse_components(described)
            k, selection = inner.count("top_k", 32), "signed"
        elif kind == "BatchTopK":
            threshold = state.number("activation.threshold")
        rows = request.components
        encoder, decoder, (n, d) = state.pair(rows)
        _check_sizes(config, n, d)
        bias = state.take("b_dec", (d,))
        weights = Weights(
            encoder=encoder,
            encoder_bias=state.take("b_enc", (n,), rows=rows),
            decoder=decoder,
            decoder_bias=bias,
            offset=bias if schema is None else None,
            threshold=threshold,
            k=k,
            selection=selection,
        )
        state.check_all_taken()
        architecture = ReLU() if k is None else TopK(k)
        if threshold is not None:
            architecture = BatchTopK(min(inner.count("top_k", 32), len(encoder)))
        for part in {id(part): part for part in (header, config, inner)}.values():
            part.harmless(*OF_TRAINING)
        kept = header.provenance() | {"cfg": config.provenance(), "activation": inner.provenance()}
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=described),
            architecture,
            source={"library": "saev", "schema": schema, "config": kept},
        )


def _of_schema(header, schema):
    """The configuration, the name of the activation function and its parameters."""
    if not 1 <= schema <= NEWEST:
        raise FormatError(
            f"{header.where}: schema={schema} is not known here, and may mean other codes; known "
            f"are those up to {NEWEST}."
        )
    config = header.part("cfg")
    of_kind = header.get("cls", None, str)
    if of_kind in KINDS:  # the first files of schema 1
        return config, of_kind, config
    activation = config.part("activation")
    kind = activation.choice("cls", KINDS, "Relu" if schema == 1 else None)
    activation.provenance()
    return config, kind, activation.part("params")


def _check_sizes(config, n, d):
    d_said = config.count("d_model", config.count("d_vit", d))
    n_said = config.count(
        "d_sae", d * config.count("exp_factor", 1) if "exp_factor" in config else n
    )
    if (n_said, d_said) != (n, d):
        raise FormatError(
            f"{config.where} says {n_said} latents of {d_said} columns, but the tensors have {n} "
            f"of {d}."
        )
