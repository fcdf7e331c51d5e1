"""One example: a row as text, and as tokens."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One example as text.

    Attributes:
        id: content hash of the texts (`row_id`).
        prompt, response: texts, or a conversation and its last answer as `data.conversation` writes them; the response
            is empty where the data has none.
        label: index of the response in `data.choices`, or -1.
        number: of the row in its source, for errors about a conversation; 0 where it is not kept.
        pair: the second text, where a row is about two; the first one is the prompt.
    """

    id: str
    prompt: str
    response: str
    label: int = -1
    number: int = 0
    pair: str | None = None


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    Attributes:
        id: hash over ids and mask (`example_id`): the key of cached signals.
        ids: token ids, BOS and end token included.
        mask: `mask[t]` says that token t is supervised, so it is predicted from position t - 1. `mask[0]` is False.
        label: index of the response in `data.choices`, or -1.
        row: `Row.id` of the row it was made of.
        number: the response, where a task reads it as a number.
        words: count of the text's words, where a task tags them.
        places: of each word that is read the token that says its tag; -1 where it has none (`data.words.places_of`).
        tags: of each word, as indices; None where the row has none.
        types: segment id of each token, of two texts; None where every one is 0. A model that knows no segments is not
            given them.
        labels: indices of the response's choices, where it is a set of them; None where it is none, or there is none.
        query: of a pair of texts: the same for rows that share the first one.
    """

    id: str
    ids: list[int]
    mask: list[bool]
    label: int = -1
    row: str = ""
    number: float | None = None
    words: int = 0
    places: Sequence[int] = ()
    tags: Sequence[int] | None = None
    types: list[int] | None = None
    labels: tuple[int, ...] | None = None
    query: str = ""

    @property
    def prompt_length(self) -> int:
        """Index of the first token of the response, the last that is supervised; the count of all tokens where none
        is, as in a classifier's text."""
        begin = end = len(self.mask) - self.mask[::-1].index(True) if True in self.mask else len(self.mask)
        while begin and self.mask[begin - 1]:
            begin -= 1
        return begin if end else len(self.mask)

    @property
    def supervised(self) -> int:
        """Count of supervised tokens."""
        return sum(self.mask)


def row_id(prompt: str, response: str, pair: str | None = None) -> str:
    """Content hash of a row: 32 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256()
    for text in (prompt, response) if pair is None else (prompt, response, pair):
        raw = text.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:32]


def example_id(ids: Sequence[int], mask: Sequence[bool]) -> str:
    """Hash over token ids and mask: 32 hexadecimal digits of SHA-256."""
    digest = hashlib.sha256(array("q", ids).tobytes())
    digest.update(bytes(mask))
    return digest.hexdigest()[:32]
