"""Layers, width and heads of a model by its configuration: optimum knows what each family calls them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

_OTHER = {
    "n_layers": "num_hidden_layers", "n_layer": "num_hidden_layers", "num_layers": "num_hidden_layers",
    "encoder_layers": "num_hidden_layers",
    "dim": "hidden_size", "n_embd": "hidden_size", "d_model": "hidden_size",
    "n_heads": "num_attention_heads", "n_head": "num_attention_heads", "num_heads": "num_attention_heads",
}  # fmt: skip
"""Names in files that optimum leaves to transformers' configurations, which take seconds and torch to import."""


class Shape(NamedTuple):
    """What a configuration says; None where it does not."""

    layers: int | None
    hidden: int | None
    heads: int | None
    vocabulary: int | None


def shape_of(config: Mapping[str, Any] | Any) -> Shape:
    """The shape of a text model, of an encoder-decoder that of its encoder.

    Args:
        config: the content of a config.json, or a configuration of transformers.
    """
    named = _normalized(config)
    names = (_depth(named), "hidden_size", "num_attention_heads", "vocab_size")
    return Shape(*(getattr(named, name, None) for name in names))


def layers_field(config: Mapping[str, Any]) -> str:
    """The field of a config.json that holds the count of layers."""
    named = _normalized(config)
    name = str(getattr(named, _depth(named).upper()))
    return name if name in config else str(named.config.attribute_map.get(name, name))


def _depth(named: Any) -> str:
    return "encoder_num_layers" if hasattr(named, "ENCODER_NUM_LAYERS") else "num_layers"


def _normalized(config: Mapping[str, Any] | Any) -> Any:
    from optimum.utils import NormalizedConfigManager, NormalizedTextConfig

    read = config
    if isinstance(config, Mapping):
        read = SimpleNamespace(
            **{**config, "attribute_map": {name: other for other, name in _OTHER.items() if other in config}}
        )
    try:
        kind: Any = NormalizedConfigManager.get_normalized_config_class(str(getattr(read, "model_type", None)))
    except KeyError:  # a family that uses the common names, or whose configuration maps them
        kind = NormalizedTextConfig
    return kind(read)
