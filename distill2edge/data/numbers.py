"""Responses that are numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from distill2edge.errors import UserError

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def number_of(text: str) -> float | None:
    """The number that a response is; None of any other text, and of a number without end."""
    found = _NUMBER.fullmatch(text.strip())
    value = float(found[0]) if found else math.nan
    return value if math.isfinite(value) else None


def check_number(answer: str, number: int) -> None:
    """Refuse a response that is no number.

    Args:
        number: of the row in its source.

    Raises:
        UserError: names the row and what its response is.
    """
    if number_of(answer) is None:
        raise UserError(
            f"row {number}: the response is {answer.strip()[:60]!r}, which is not a number",
            where="data.response",
            fix="name the field that holds the number (1.5, -2, 3e-4), or leave such rows out with data.filter",
        )


def spread_of(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation; numbers that are all one have 1, so that it can be divided by.

    Raises:
        UserError: no numbers.
    """
    if not numbers:
        raise UserError("no training row has a number", where="data.response", fix="name the field that holds it")
    mean = sum(numbers) / len(numbers)
    return mean, (sum((value - mean) ** 2 for value in numbers) / len(numbers)) ** 0.5 or 1.0
