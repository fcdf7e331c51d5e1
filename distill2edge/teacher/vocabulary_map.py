"""The student's token for each of the teacher's, by how they are spelt."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from distill2edge.data.spelling import SPECIAL, Spelling
from distill2edge.data.tokens import tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    BoolArray = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


class VocabularyMap(NamedTuple):
    """Where the probability of each teacher's token goes.

    Attributes:
        to: [teacher's ids] the student's token that a text of that token begins with; -1: there is none.
        whole: [teacher's ids] whether it spells the same bytes, not the first of them alone.
        size: count of the student's ids.
    """

    to: IntArray
    whole: BoolArray
    size: int

    @property
    def identical(self) -> bool:
        """Whether every token has the same id in both."""
        return len(self.to) == self.size and bool((self.to == np.arange(self.size)).all())


def vocabulary_map(theirs: Spelling, ours: Spelling, tokenizer: PreTrainedTokenizerBase) -> VocabularyMap:
    """Map the teacher's tokens to the student's.

    A token that the student has too carries its probability over. One that it lacks gives it to the token with which
    the student begins the same text: what comes next is the same, and the student says it in smaller pieces.

    Args:
        theirs, ours: spelling of the teacher's and of the student's tokens.
        tokenizer: the student's.
    """
    # Of two that are spelt alike the later: SentencePiece has its single bytes first, and writes characters by others.
    known = {token: index for index, token in enumerate(ours.tokens)}
    to = np.array([known.get(token, -1) for token in theirs.tokens], dtype=np.int64)
    if ours.tokens == theirs.tokens:
        to = np.arange(len(to))  # also those that are spelt alike
    whole = to >= 0
    lacking = [index for index in np.flatnonzero(~whole).tolist() if not theirs.tokens[index].startswith(SPECIAL)]
    for index, first in zip(lacking, _begun(lacking, theirs, ours, known, tokenizer), strict=True):
        to[index] = first
    return VocabularyMap(to, whole, len(ours.tokens))


def _begun(
    lacking: list[int], theirs: Spelling, ours: Spelling, known: dict[bytes, int], tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """The student's first token of each text; where its tokenizer writes another text alone (a space before it) or
    the bytes are no text, the longest of its tokens that they begin with; -1: none."""
    texts: dict[int, str] = {}
    for index in lacking:
        try:
            texts[index] = theirs.tokens[index].decode()
        except UnicodeDecodeError:
            continue
    encoded = dict(zip(texts, tokenize(tokenizer, list(texts.values())), strict=True))
    found: list[int] = []
    for index in lacking:
        raw, ids = theirs.tokens[index], encoded.get(index, [])
        if ids and ours.text(ids) == raw:
            found.append(ids[0])
        else:
            found.append(next((known[raw[:n]] for n in range(len(raw), 0, -1) if raw[:n] in known), -1))
    return found
