"""Where in a model of transformers a hook of TransformerLens reads, and names for any family.

Checked with numbers on small models of each family. TransformerLens rearranges models as it loads
them; what a hook of it gives beside the activation of a module is named as a transform:

- "centre_rows": the mean of each row is subtracted. So it is by default with everything that is
  written to the residual stream of a model with LayerNorm.
- "divide_by_norm_weight": the output of a norm without its weight (and bias).
"""

import difflib
import re
from typing import NamedTuple

from .modules import NoSuchModuleError, way_to

# What stands for a block in each family: the modules that it has, the first that fits.
FAMILIES = {
    "gpt2": {"ln_1", "attn", "mlp"},
    "gemma": {"self_attn", "mlp", "pre_feedforward_layernorm"},
    "llama": {"self_attn", "mlp", "post_attention_layernorm"},
    "gpt_neox": {"attention", "mlp", "post_attention_layernorm"},
}
# For each hook of a block, the module of each family in its block, and its side.
BLOCK_HOOKS = {
    "hook_resid_pre": dict.fromkeys(FAMILIES, ("", "input")),
    "hook_resid_post": dict.fromkeys(FAMILIES, ("", "output")),
    "hook_resid_mid": {
        "gpt2": ("ln_2", "input"),
        "gemma": ("pre_feedforward_layernorm", "input"),
        "llama": ("post_attention_layernorm", "input"),
        "gpt_neox": ("post_attention_layernorm", "input"),
    },
    "hook_attn_out": {
        "gpt2": ("attn", "output"),
        "gemma": ("post_attention_layernorm", "output"),
        "llama": ("self_attn", "output"),
        "gpt_neox": ("attention", "output"),
    },
    "attn.hook_z": {
        "gpt2": ("attn.c_proj", "input"),
        "gemma": ("self_attn.o_proj", "input"),
        "llama": ("self_attn.o_proj", "input"),
        "gpt_neox": ("attention.dense", "input"),
    },
    "hook_mlp_in": {
        "gpt2": ("ln_2", "input"),
        "gemma": ("pre_feedforward_layernorm", "input"),
        "llama": ("post_attention_layernorm", "input"),
        "gpt_neox": ("post_attention_layernorm", "input"),
    },
    "hook_mlp_out": {
        "gpt2": ("mlp", "output"),
        "gemma": ("post_feedforward_layernorm", "output"),
        "llama": ("mlp", "output"),
        "gpt_neox": ("mlp", "output"),
    },
    "mlp.hook_pre": {
        "gpt2": ("mlp.c_fc", "output"),
        "gemma": ("mlp.gate_proj", "output"),
        "llama": ("mlp.gate_proj", "output"),
        "gpt_neox": ("mlp.dense_h_to_4h", "output"),
    },
    "mlp.hook_post": {
        "gpt2": ("mlp.c_proj", "input"),
        "gemma": ("mlp.down_proj", "input"),
        "llama": ("mlp.down_proj", "input"),
        "gpt_neox": ("mlp.dense_4h_to_h", "input"),
    },
    "ln2.hook_normalized": {
        "gpt2": ("ln_2", "output"),
        "gemma": ("pre_feedforward_layernorm", "output"),
        "llama": ("post_attention_layernorm", "output"),
        "gpt_neox": ("post_attention_layernorm", "output"),
    },
    # names of circuit-tracer and nnsight
    "mlp.hook_in": {
        "gpt2": ("ln_2", "output"),
        "gemma": ("pre_feedforward_layernorm", "output"),
        "llama": ("post_attention_layernorm", "output"),
        "gpt_neox": ("post_attention_layernorm", "output"),
    },
    "mlp.hook_out": {
        "gpt2": ("mlp", "output"),
        "gemma": ("post_feedforward_layernorm", "output"),
        "llama": ("mlp", "output"),
        "gpt_neox": ("mlp", "output"),
    },
}
EMBEDDINGS = ("wte", "embed_tokens", "embed_in")
# Names that say what they are, "layers.5.mlp.out", and the hooks of a block at the same places.
PLAIN_NAMES = {
    "in": "hook_resid_pre",
    "mid": "hook_resid_mid",
    "out": "hook_resid_post",
    "attn.heads": "attn.hook_z",
    "attn.out": "hook_attn_out",
    "mlp.in": "mlp.hook_in",
    "mlp.pre": "mlp.hook_pre",
    "mlp.act": "mlp.hook_post",
    "mlp.out": "hook_mlp_out",
}
BLOCK = re.compile(r"^(?:blocks\.(\d+)\.)(.+)$")
ANY_NAME = re.compile(r"^(?:(blocks|layers)\.(\d+)\.(.+)|embed|hook_embed)$")


class Place(NamedTuple):
    """A module of a model, the side of it, and what is done with a row then.

    Parameters
    ----------
    layer : str
        Path of the module.
    side : {"input", "output"}
    transform : {"divide_by_norm_weight"} or None
    """

    layer: str
    side: str
    transform: str | None = None


def find_place(model, layer, side="output"):
    """The module that a path, or a name for models of any family, stands for, and its side.

    Parameters
    ----------
    model : torch.nn.Module
    layer : str
        A dotted path, which comes first; or one of `PLAIN_NAMES` with the number of its block,
        "layers.5.mlp.out", or the name of a hook of TransformerLens, "blocks.5.hook_mlp_out".
    side : {"output", "input"}, default="output"
        Of a path. Names have a side of their own.

    Returns
    -------
    place : Place

    Raises
    ------
    ValueError
        If there is no such module and no such name, which names what is near; if the model has no
        such place or is of no known family; or if `side` contradicts the name.
    """
    try:
        way_to(model, layer)
        return Place(layer, side)
    except NoSuchModuleError:
        match = ANY_NAME.match(layer)
        if match is None:
            raise
    place = site_of_hook(_hook_of(layer, match), model)
    if place.transform is not None:
        raise ValueError(
            f"layer={layer!r} is the output of {place.layer!r} without the weight of the norm. "
            f"Give layer={place.layer!r} and divide the rows by that weight, as with RowTransform."
        )
    if side == "input" and place.side == "output":
        raise ValueError(
            f"layer={layer!r} is the output of {place.layer!r}, but side='input'. Leave side out: "
            "such a name has its own."
        )
    return place


def _hook_of(layer, match):
    """The hook of TransformerLens that a name stands for."""
    kind, number, name = match.groups()
    if kind is None:
        return "hook_embed"
    known = BLOCK_HOOKS if kind == "blocks" else PLAIN_NAMES
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
        raise ValueError(
            f"layer={layer!r} is neither a module of the model nor a known name. The nearest "
            f"names are {', '.join(f'{kind}.{number}.{each}' for each in nearest)}. Known are "
            f"{kind}.{number}. followed by {', '.join(known)}."
        )
    return f"blocks.{number}.{name if kind == 'blocks' else PLAIN_NAMES[name]}"


def site_of_hook(hook, model):
    """Where a hook of TransformerLens reads in a model of transformers.

    Parameters
    ----------
    hook : str
        Such as "blocks.3.hook_resid_post".
    model : torch.nn.Module

    Returns
    -------
    place : Place

    Raises
    ------
    ValueError
        If the hook or the family of the model is not known, or the model has no such place.
    """
    modules = dict(model.named_modules())
    if hook == "hook_embed":
        found = [name for name in modules if name.split(".")[-1] in EMBEDDINGS]
        if len(found) != 1:
            raise ValueError(f"hook {hook!r}: the model has no one token embedding, but {found}.")
        return Place(found[0], "output")
    match = BLOCK.match(hook)
    if match is None or match[2] not in BLOCK_HOOKS:
        raise ValueError(
            f"The hook {hook!r} is not known. Known are hook_embed and blocks.L. followed by "
            f"{', '.join(BLOCK_HOOKS)}. Name the layer and its side yourself."
        )
    number, name = int(match[1]), match[2]
    blocks, family = _blocks_of(modules)
    if number >= len(blocks):
        raise ValueError(f"The hook {hook!r} is beyond the {len(blocks)} blocks of the model.")
    if family == "gpt_neox" and name in ("hook_resid_mid", "hook_mlp_in"):
        config = getattr(model, "config", None)
        if name == "hook_resid_mid" and getattr(config, "use_parallel_residual", True):
            raise ValueError(
                f"The hook {hook!r} does not exist in a model whose attention and MLP read the "
                "same residual stream (use_parallel_residual)."
            )
    inside, side = BLOCK_HOOKS[name][family]
    layer = f"{blocks[number]}.{inside}".rstrip(".")
    if layer not in modules:
        raise ValueError(f"The hook {hook!r} reads at {layer!r}, which the model does not have.")
    return Place(layer, side, "divide_by_norm_weight" if name == "ln2.hook_normalized" else None)


def _blocks_of(modules):
    """Paths of the blocks of a language model, in their order, and its family."""
    lists = {}
    for name in modules:
        head, _, last = name.rpartition(".")
        if last.isdigit():
            lists.setdefault(head, []).append(name)
    for head in sorted(lists, key=lambda head: ("vision" in head or "encoder" in head, head)):
        blocks = sorted(lists[head], key=lambda name: int(name.rpartition(".")[2]))
        children = {child for child, _ in modules[blocks[0]].named_children()}
        for family, needed in FAMILIES.items():
            if needed <= children:
                return blocks, family
    raise ValueError(
        "The model is of no family whose places are known by the names of TransformerLens "
        f"({', '.join(FAMILIES)}). Name the layer and its side yourself."
    )
