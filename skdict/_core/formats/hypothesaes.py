"""hypothesaes of Movva and others: SAE_M=..._K=....pt with config and state_dict.

z = the k largest of relu((x - b) W + c), or those above a θ. Version 2.0.1: sae.py.
"""

import itertools

from ..models.architectures import BatchTopK, Matryoshka, TopK
from .base import Format, Record, register
from .config import Config
from .tensors import FormatError, TorchTensors
from .weights import Weights


@register("hypothesaes")
class Hypothesaes(Format):
    """Files of hypothesaes."""

    description = "hypothesaes: top-k, batch top-k, with prefixes"
    looks = "one .pt with config, state_dict"

    @staticmethod
    def detect(files):
        found = files.peek("*.pt")
        state = found.value.get("state_dict") if isinstance(found, TorchTensors) else None
        return isinstance(state, dict) and "neuron_bias" in state

    @staticmethod
    def read(files, request):
        name = files.one("*.pt")
        request.refuse_layer(files.describe(name))
        value = files.torch_tensors(name)
        state = value.part("state_dict")
        config = Config(value.value.get("config"), f"{value.where}: config")
        k = config.need("k_active_neurons", int)
        is_batch = config.get("use_batch_topk", False, bool)
        prefixes = config.get("prefix_lengths", None, (list, tuple))
        if not is_batch:
            request.refuse_components(state.where)
        rows = request.components
        encoder, decoder, (n, d) = state.pair(rows)
        for key, found in (("input_dim", d), ("m_total_neurons", n)):
            if config.count(key, found) != found:
                raise FormatError(f"{config.where}: {key}={config.get(key)}, but it has {found}.")
        bias = state.take("input_bias", (d,))
        weights = Weights(
            encoder=encoder,
            encoder_bias=state.take("neuron_bias", (n,), rows=rows),
            decoder=decoder,
            decoder_bias=bias,
            offset=bias,
            threshold=state.number("threshold") if is_batch else None,
            k=None if is_batch else k,
        )
        state.ignore("threshold")
        state.check_all_taken()
        config.get("multi_k"), config.get("aux_k")  # of training alone
        config.harmless("dead_neuron_threshold_steps")
        sizes = _group_sizes(config, prefixes, n)
        if not is_batch:
            architecture = TopK(k)
        elif sizes is None or rows is not None:
            architecture = BatchTopK(min(k, len(encoder)))
        else:
            architecture = Matryoshka(k, prefixes=tuple(end / n for end in prefixes))
        return Record(
            weights.dictionary(units=request.units, dtype=request.dtype, where=state.where),
            architecture,
            source={"library": "hypothesaes", "config": config.provenance()},
            group_sizes=sizes if rows is None else None,
        )


def _group_sizes(config, prefixes, n):
    if prefixes is None:
        return None
    are_counts = all(isinstance(end, int) and not isinstance(end, bool) for end in prefixes)
    steps = itertools.pairwise((0, *prefixes)) if are_counts else ()
    sizes = [end - start for start, end in steps]
    if not sizes or min(sizes) < 1 or prefixes[-1] != n:
        raise FormatError(
            f"{config.where}: prefix_lengths={prefixes!r} must be increasing counts up to {n}."
        )
    return sizes
