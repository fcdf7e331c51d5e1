"""A closed set of responses as a recipe names it: which spellings are one choice, and which make none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from distill2edge.errors import Problem


def same(text: str) -> str:
    """What is equal for two spellings of one choice: without blanks around it, accents composed (Unicode's NFC)."""
    return unicodedata.normalize("NFC", text.strip())


def problems(choices: Sequence[str]) -> Iterator[Problem]:
    """Choices that no row can have, or that cannot be told apart."""
    first: dict[str, str] = {}
    for choice in choices:
        key = same(choice)
        if not key:
            what = "data.choices names an empty text, and rows with an empty response are dropped"
            yield Problem(("choices",), what, "take it out, or name it: data.response: \"{{ label or 'none' }}\"")
            return
        other = first.setdefault(key, choice)
        if other is choice and list(choices).count(choice) == 1:
            continue
        if other == choice:
            yield Problem(("choices",), f"data.choices names {choice!r} twice", "name each once")
        elif other.strip() != choice.strip():
            what = f"data.choices names {choice!a} and {other!a}, which are one text in two forms of Unicode"
            yield Problem(("choices",), what, f"name it once: {key}; rows of either form are taken as it")
        else:
            what = f"data.choices names {other!r} and {choice!r}, which differ in blanks alone"
            yield Problem(("choices",), what, "name one of them: blanks around a response do not tell it apart")
        return
