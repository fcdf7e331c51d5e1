"""Typed and bounded access to a GGUF's metadata: what a library would allocate or index by is checked first."""

from __future__ import annotations

import math
from typing import Any

from distill2edge.errors import UserError
from distill2edge.gguf.reader import GgufFile

_NULL_TOKENS = (0xFFFFFFFF, -1)  # llama.cpp's LLAMA_TOKEN_NULL, as both kinds of integer
_FIX = "use a complete GGUF file of this model, as it was made"


def bad(file: GgufFile, key: str, what: str) -> UserError:
    """The error of one field."""
    return UserError(what, where=f"{file.path}: {file.full_key(key)}", fix=_FIX)


def whole(file: GgufFile, key: str, low: int, high: int, default: int | None = None) -> int:
    """A whole number within bounds.

    Raises:
        UserError: it is missing without a default, of another type, or out of bounds.
    """
    value = file.get(key, default) if default is not None else file.require(key)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise bad(file, key, f"{_shown(value)} is no whole number from {low} to {high}")
    return value


def number(file: GgufFile, key: str, low: float, high: float, default: float | None = None) -> float:
    """A finite number with low < number <= high; errors as `whole`."""
    value = file.get(key, default) if default is not None else file.require(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad(file, key, f"{_shown(value)} is no finite number")
    if not low < value <= high:
        raise bad(file, key, f"{_shown(value)} is not above {low:g} and at most {high:g}")
    return float(value)


def text(file: GgufFile, key: str, default: str | None = None) -> str:
    """A text; errors as `whole`."""
    value = file.get(key, default) if default is not None else file.require(key)
    if not isinstance(value, str):
        raise bad(file, key, f"{_shown(value)} is no text")
    return value


def flag(file: GgufFile, key: str, default: bool) -> bool:
    """True or false; errors as `whole`."""
    value = file.get(key, default)
    if not isinstance(value, bool):
        raise bad(file, key, f"{_shown(value)} is neither true nor false")
    return value


def items(file: GgufFile, key: str, kind: type, count: int | None = None) -> list[Any]:
    """An array of texts (`str`), whole numbers (`int`) or finite numbers (`float`).

    Args:
        count: how many there must be.

    Raises:
        UserError: as `whole`, another kind of item, or another count.
    """
    value = file.require(key)
    if not isinstance(value, list) or not value:
        raise bad(file, key, "is no list, or an empty one")
    if kind is float:
        good = all(isinstance(each, float) and math.isfinite(each) for each in value)
    else:
        good = all(isinstance(each, kind) and not isinstance(each, bool) for each in value)
    if not good:
        raise bad(file, key, "holds something of another kind")
    if count is not None and len(value) != count:
        raise bad(file, key, f"has {len(value)} items, where {count} belong")
    return value


def token_id(file: GgufFile, name: str, vocabulary: int, default: int | None = None) -> int | None:
    """Id of a special token (`bos`, `eos`, ...); None where the file names none.

    Raises:
        UserError: no number, or one beyond the vocabulary.
    """
    key = f"tokenizer.ggml.{name}_token_id"
    value = file.get(key)
    if value is None:
        return default if default is None or default < vocabulary else None
    if value in _NULL_TOKENS and not isinstance(value, bool):
        return None
    return whole(file, key, 0, vocabulary - 1)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
