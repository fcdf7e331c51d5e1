"""Plain values as JSON: all that one process of a check takes from another. Nothing in it is ever run."""

from __future__ import annotations

import builtins
import json
import types
from collections.abc import Callable
from typing import Any

LONGEST = 4 << 20
"""Bytes of one message between two processes of a check."""

_DEEPEST = 100  # levels of a value

Other = Callable[[Any], list[Any] | None]
"""What to make of a value that is none of the plain ones: a tagged list, or None to refuse it."""


def encode(value: Any, other: Other, depth: int = 0) -> Any:
    """A value as JSON: None, bool, str and float as they are, the rest as [tag, ...].

    Raises:
        TypeError: it, or something in it, is not plain data and `other` refuses it.
    """
    if depth > _DEEPEST:
        raise TypeError(f"a value of more than {_DEEPEST} levels")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return ["int", hex(int(value))]  # a long decimal number is slow, and refused by Python
    if isinstance(value, float):
        return ["float", float.__repr__(value)]
    if isinstance(value, complex):
        return ["complex", complex.__repr__(value)]
    if isinstance(value, bytes | bytearray):
        return ["bytes", bytes(value).hex()]
    for tag, kind in _LISTS.items():
        if isinstance(value, kind):
            return [tag, [encode(each, other, depth + 1) for each in value]]
    if isinstance(value, dict):
        pairs = [[encode(key, other, depth + 1), encode(each, other, depth + 1)] for key, each in value.items()]
        return ["dict", pairs]
    tagged = other(value)
    if tagged is None:
        raise TypeError(f"{type(value).__name__} is not plain data")
    return tagged


def decode(value: Any, other: Callable[[str, Any], Any]) -> Any:
    """What `encode` was given; `other` makes a value of the tags it added.

    Raises:
        ValueError: it is not what `encode` gives.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[0], str):
        raise ValueError("a message of another form")
    tag, inner = value
    if tag in _LISTS:
        return _LISTS[tag](decode(each, other) for each in inner)
    if tag == "dict":
        return {decode(key, other): decode(each, other) for key, each in inner}
    if tag in _TEXTS:
        return _TEXTS[tag](str(inner))
    return other(tag, inner)


def known(value: Any) -> list[Any] | None:
    """For `encode`, where the other side is the lesser one: modules and built-in functions go by their names."""
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    name = getattr(value, "__name__", None)
    if isinstance(name, str) and isinstance(value, type | types.BuiltinFunctionType):
        return ["builtin", name] if getattr(builtins, name, None) is value else None
    return None


def dumps(message: Any) -> bytes:
    """One line.

    Raises:
        ValueError: it is too long.
    """
    line = json.dumps(message).encode() + b"\n"
    if len(line) > LONGEST:
        raise ValueError(f"a value of {len(line):,} bytes (at most {LONGEST:,})")
    return line


_LISTS: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_TEXTS: dict[str, Callable[[str], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "complex": complex,
    "bytes": bytes.fromhex,
}
