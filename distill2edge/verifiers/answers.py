"""Reading the final answer out of a response, and numbers out of text. Pure; linear in the length of the text."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

Extract = Literal["final", "last-number", "last-line", "whole"]

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,400})"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-+\u2212]?)(?P<whole>{_DIGITS})?(?P<part>\.\d{{1,400}})?(?P<power>[eE][-+]?\d{{1,3}})?"
    r"(?:\s?/\s?(?P<under>\d{1,400}))?(?P<percent>\s?%)?"
)
_MARKED = re.compile(r"####[ \t]*([^\n]+)")
_SAID = re.compile(r"(?i)\b(?:final\s+)?(?:answer|result)\b[ \t]*(?:is\b|:|=)[ \t]*([^\n]+)")


def final_answer(text: str, how: Extract = "final") -> str | None:
    r"""The final answer in a response.

    Args:
        how: `final` takes the last `\boxed{...}`, else what follows the last `####` (the form of GSM8K, Cobbe 2021),
            else what follows the last "answer is", "answer:" or "result =", else the last line; `last-number` the
            last number; `last-line` the last line that is not blank; `whole` the whole text.

    Returns:
        None where there is none: a blank text, or `last-number` without a number.
    """
    if how == "last-number":
        found = list(numbers(text))
        return found[-1] if found else None
    if how == "final":
        for candidate in (_boxed(text), _last(_MARKED, text), _last(_SAID, text)):
            if candidate and candidate.strip():
                return candidate.strip().rstrip(".").strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    return text.strip() if how == "whole" else lines[-1]


def read_number(text: str) -> Fraction | None:
    """The number a text says, exactly; the last one where it says several (`3 + 4 = 7` says 7).

    Reads signs, thousands separators, decimals, powers of ten, fractions and percentages (5% is 1/20).
    """
    found = list(numbers(text))
    return _value(found[-1]) if found else None


def numbers(text: str) -> list[str]:
    """Every number in a text, as it is written."""
    found = []
    for match in _NUMBER.finditer(text):
        if match["whole"] or match["part"]:
            found.append(match[0].strip())
    return found


def normal(text: str, ignore_case: bool = True) -> str:
    """A text without surrounding and doubled white space, and without a final full stop."""
    plain = " ".join(text.split()).rstrip(".").rstrip()
    return plain.casefold() if ignore_case else plain


def _value(written: str) -> Fraction | None:
    match = _NUMBER.match(written)
    if match is None or not (match["whole"] or match["part"]):
        return None
    digits = (match["whole"] or "0").replace(",", "") + (match["part"] or "")
    value = Fraction(digits + (match["power"] or ""))
    if match["under"]:
        if not int(match["under"]):
            return None
        value /= int(match["under"])
    if match["percent"]:
        value /= 100
    return -value if match["sign"] in ("-", "\u2212") else value


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return found[-1] if found else None


def _boxed(text: str) -> str | None:
    r"""What the last `\boxed{...}` holds, braces inside it balanced."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth = 0
    for index in range(start + len(r"\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start + len(r"\boxed{") : index]
    return None
