"""What a configuration says of some of its layers: one table of the fields that speak of single layers.

The rules go by name, as in `models.config`. A list with as many entries as there are layers need not have one for each
(`time_step_limit` of two), and what no rule knows stays as it is: a student is compared with what was saved of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill2edge.errors import UserError

PACKED = ("embed_tokens_per_layer", "per_layer_model_projection")
"""Modules outside the layers whose weight has a part for each, one after another: Gemma's per-layer embeddings."""
_ALONE = "student.init.layers"


def _each(value: Any, kept: Sequence[int], total: int) -> Any:
    """One entry a layer."""
    return [value[old] for old in kept] if len(value) == total else value


def _by_index(value: Any, kept: Sequence[int], total: int) -> Any:
    """{layer: settings} of some."""
    old = {int(layer): settings for layer, settings in value.items() if str(layer).isdecimal()}
    return {new: old[layer] for new, layer in enumerate(kept) if layer in old}


def _named(value: Any, kept: Sequence[int], total: int) -> Any:
    """The numbers of some layers."""
    return [new for new, layer in enumerate(kept) if layer in value]


def _first(value: Any, kept: Sequence[int], total: int) -> Any:
    """A count of layers from the first on."""
    return sum(layer < value for layer in kept)


def _last(value: Any, kept: Sequence[int], total: int) -> Any:
    """A count of layers up to the last."""
    return sum(layer >= total - value for layer in kept)


_RULES: tuple[tuple[re.Pattern[str], Any, Callable[[Any, Sequence[int], int], Any]], ...] = tuple(
    (re.compile(f"({names})$"), kind, rule)
    for names, kind, rule in (
        (r"(\w+_)?layer_types|layers_block_type|indexer_types|no_rope_layers|layer_rope_theta|attention_window|"
         r"\w*_pattern|(\w+_)?intermediate_size|num_(\w+_)?heads|num_experts|moe_topk|swiglu_limits(_shared)?|"
         r"ffn_multipliers", list | tuple, _each),
        (r"per_layer_config", Mapping, _by_index),
        (r"mlp_only_layers|moe_layers|attn_layer_indices|rope_scaling_layers|full_attn_idxs", list | tuple, _named),
        (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index|max_window_layers", int, _first),
        (r"num_kv_shared_layers", int, _last),
    )
)  # fmt: skip


def fields_of_some(config: Mapping[str, Any], kept: Sequence[int], total: int) -> dict[str, Any]:
    """The fields that change where only some layers stay, beside their count.

    Args:
        config: a configuration, as in `config.json`.
        kept: numbers of layers, ascending.
        total: layers of the configuration.

    Raises:
        UserError: a layer stays that cannot do without one that does not.
    """
    _check_shared(config, kept, total)
    found = {}
    for name, value in config.items():
        for names, kind, rule in _RULES:
            if names.match(name) and isinstance(value, kind) and (new := rule(value, kept, total)) != value:
                found[name] = new
    return found


def ties_between(config: Mapping[str, Any]) -> str | None:
    """The field by which layers depend on one another, or share a weight: none can be left out for a try."""
    return next((name for name in ("num_kv_shared_layers", "hidden_size_per_layer_input") if config.get(name)), None)


def _check_shared(config: Mapping[str, Any], kept: Sequence[int], total: int) -> None:
    """Gemma 3n and 4: the last layers take keys and values of the last layer of their kind that has its own."""
    kinds, shared = config.get("layer_types"), config.get("num_kv_shared_layers")
    if not isinstance(shared, int) or not shared or not isinstance(kinds, list | tuple) or len(kinds) != total:
        return
    own = range(total - shared)
    for layer in kept:
        source = max((each for each in own if kinds[each] == kinds[layer]), default=None)
        if layer not in own and source is not None and source not in kept:
            raise UserError(
                f"layer {layer} takes its keys and values from layer {source}, which is left out",
                where=_ALONE,
                fix=f"list the layers, with {source} among them, or none from {total - shared} on",
            )
