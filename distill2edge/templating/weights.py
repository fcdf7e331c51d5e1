"""What the operations of a template weigh, in steps, before they are done."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from jinja2.exceptions import SecurityError

CHARACTERS = 256  # to a step
ITEMS = 16  # of a list or dict, to a step
_BITS = 65_536  # of a whole number


class LimitError(SecurityError):
    """A template needs more steps, memory or time than it may have."""


def weight(value: Any) -> int:
    """Of a value that was made."""
    if isinstance(value, str | bytes):
        return len(value) // CHARACTERS
    return len(value) // ITEMS if isinstance(value, list | tuple | dict | set) else 0


def result_weight(operator: str, left: Any, right: Any) -> int:
    """Of `+`, `*` and `**`.

    Raises:
        LimitError: a whole number without measure.
    """
    sequences = (str, bytes, list, tuple)
    if operator == "+":
        return weight(left) + weight(right)
    if operator == "*" and (isinstance(left, sequences) or isinstance(right, sequences)):
        many, one = (right, left) if isinstance(left, sequences) else (left, right)
        unit = CHARACTERS if isinstance(one, str | bytes) else ITEMS
        return len(one) * max(many, 0) // unit if isinstance(many, int) else 0
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * max(right, 0)
        if bits > _BITS:
            raise LimitError(f"a whole number of {bits:,} bits")
    return 0


def format_weight(text: str, values: Iterable[Any]) -> int:
    """Of `%` and `str.format`: each placeholder may print the longest value at the widest width that is named."""
    found = list(values.values() if isinstance(values, Mapping) else values)
    widths = [min(int(digits), 10**12) for digits in re.findall(r"\d{1,12}", text)]
    nested = "*" in text or re.search(r":[^}]*\{", text)
    named = [abs(value) for value in found if isinstance(value, int)] if nested else []
    longest = max((len(value) for value in found if isinstance(value, str)), default=0)
    return len(text) // CHARACTERS + (text.count("%") + text.count("{")) * (
        1 + max([longest, *widths, *named]) // CHARACTERS
    )


def method_weight(owner: Any, name: str, args: tuple[Any, ...]) -> int:
    """Of a method on the list, called on a plain value."""
    size = len(owner) if isinstance(owner, str | bytes | list | tuple | dict) else 0
    number = next((value for value in args if isinstance(value, int)), 0)
    if name in ("center", "ljust", "rjust", "zfill"):
        return max(number, size) // CHARACTERS
    if name == "expandtabs":
        return int(size + owner.count("\t") * max(number, 8)) // CHARACTERS
    if name == "join":
        return (sum(map(len, args[0])) + len(args[0]) * size) // CHARACTERS if args else 0
    if name == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
        return int(size + owner.count(args[0]) * len(args[1])) // CHARACTERS
    if name in ("split", "rsplit", "splitlines"):
        return size // ITEMS
    if name == "strftime":
        if any(re.search(r"\d{3}", str(value)) or len(str(value)) > 200 for value in args):
            raise LimitError("a date format without measure")
        return 1
    return size // (CHARACTERS if isinstance(owner, str | bytes) else ITEMS)


def filter_weight(name: str, value: Any, rest: list[Any], options: dict[str, Any]) -> int:
    """Of a filter.

    Raises:
        LimitError: a number without measure.
    """
    given = [*rest, *options.values()]
    numbers = [each for each in given if isinstance(each, int)]
    texts = [len(each) for each in given if isinstance(each, str)]
    if name in _MEASURED and any(abs(number) > 10_000 for number in numbers):
        raise LimitError(f"the filter {name} with a number over 10,000")
    size = len(value) if isinstance(value, str | list | tuple | dict | Sized) else 0
    if not isinstance(value, str):
        total = sum(map(len, value)) if name == "join" else 0
        return (
            1 + size // ITEMS + (total + size * max(texts, default=0)) // CHARACTERS + sum(map(abs, numbers)) // ITEMS
        )
    if name == "format":
        return 1 + format_weight(value, given)
    if name == "replace" and len(rest) > 1:
        return 1 + (size + value.count(str(rest[0])) * len(str(rest[1]))) // CHARACTERS
    if name == "indent":
        return 1 + (size + (value.count("\n") + 1) * max([4, *texts, *numbers])) // CHARACTERS
    if name == "wordwrap":
        return 1 + (size * (1 + max(texts, default=1) // max(min(numbers, default=79), 1))) // ITEMS
    if name == "striptags":
        return 1 + size * (1 + value.count("<")) // (CHARACTERS * 64)
    if name in ("list", "map", "select", "batch", "slice", "sort", "unique", "groupby", "wordcount"):
        return 1 + size // ITEMS
    return 1 + (size + sum(texts)) // CHARACTERS


_MEASURED = frozenset({"center", "indent", "batch", "slice", "round", "tojson", "wordwrap"})
