"""What ggml stores of keys and values in each type."""

from __future__ import annotations

from typing import Any

from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.gguf.reader import GgufFile


def number(cache: str) -> int:
    """In `enum ggml_type`."""
    return GGML_TYPES[cache.upper()].number


def block(cache: str) -> int:
    """Numbers that are stored together: what a head's width must be a multiple of."""
    return GGML_TYPES[cache.upper()].block


def token_bytes(file: GgufFile, cache: str) -> int | None:
    """Bytes of keys and values of one token in all layers; None where the file does not say."""
    layers, heads = file.get(".block_count"), file.get(".attention.head_count")
    groups: Any = file.get(".attention.head_count_kv", heads)
    widths = [file.get(f".attention.{part}_length") for part in ("key", "value")]
    if None in widths and isinstance(heads, int):
        widths = [int(file.require(".embedding_length")) // heads] * 2
    if not isinstance(layers, int) or not isinstance(groups, int | list) or None in widths:
        return None
    total = groups * layers if isinstance(groups, int) else sum(groups)
    return int(total * sum(widths) * GGML_TYPES[cache.upper()].weight_bits / 8)
