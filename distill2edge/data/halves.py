"""Halves of texts, as further rows that the teacher labels: more texts where there are few."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from distill2edge.data import leakage
from distill2edge.data.conversation import is_chat
from distill2edge.data.examples import Row, row_id
from distill2edge.data.sorted_items import Item

LEAST_WORDS = 3
"""Words of a half: a shorter one says too little."""

_PUNCTUATION = re.compile(
    r"[,;:.!?\u2026\u2013\u2014\u3001\u3002\uff0c\uff1b\uff1a\uff01\uff1f]+[\"'\u2019\u201d)\]]*\s*"
)
_SPACE = re.compile(r"\s+")


def halves(text: str) -> tuple[str, str] | None:
    """A text cut after the punctuation nearest its middle, else at the space nearest to it; None where no cut leaves
    three words on both sides. The parts are pieces of the text, without the spaces between them."""
    middle = len(text) / 2
    for border in (_PUNCTUATION, _SPACE):
        for found in sorted(border.finditer(text), key=lambda found: abs(found.end() - middle)):
            parts = text[: found.end()].strip(), text[found.end() :].strip()
            if all(len(leakage.words(part)) >= LEAST_WORDS for part in parts):
                return parts
    return None


def halves_of(items: Iterable[Item]) -> Iterator[Item]:
    """The halves of rows of one text without a response, each once; a conversation has none."""
    seen = set()
    for item in items:
        for part in () if is_chat(item.row.prompt) else halves(item.row.prompt) or ():
            normal = leakage.normal_form(part)
            if normal not in seen:
                seen.add(normal)
                yield Item(Row(row_id(part, ""), part, ""), part)
