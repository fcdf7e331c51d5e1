"""The words of a text that get a tag each, and the token of a model at which each is read. Pure.

`handover/predict_onnx.py`, which runs without this package, has the same functions; a test holds them equal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

Span = tuple[int, int]
"""Characters of a text: the first, and the one after the last."""

_ALONE = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
"""Scripts without blanks between words (kana, Han): each character is a word."""


def words_of(text: str) -> list[Span]:
    """The words: runs of letters, digits, underscores and the marks on them, and every other character but blanks."""
    found: list[Span] = []
    begin = None
    for at, char in enumerate(text):
        alone = char >= "\u3040" and any(low <= ord(char) <= high for low, high in _ALONE)
        letter = char.isalnum() or char == "_"
        if not alone and (letter or (begin is not None and unicodedata.category(char)[0] == "M")):
            begin = at if begin is None else begin
            continue
        if begin is not None:
            found.append((begin, at))
            begin = None
        if not char.isspace():
            found.append((at, at + 1))
    return found if begin is None else [*found, (begin, len(text))]


def places_of(text: str, words: Sequence[Span], offsets: Sequence[Span]) -> list[int]:
    """Of each word the first token that begins in it; -1 where none does.

    None does where a tokenizer drops a character, or has one token for several words (`...`): such a word continues
    the word before it.

    Args:
        words: as `words_of(text)`.
        offsets: characters of each token. A blank that a token begins with is none of its word.
    """
    places = [-1] * len(words)
    word = 0
    for token, (begin, end) in enumerate(offsets):
        while begin < end and text[begin].isspace():
            begin += 1
        if begin >= end:
            continue
        while word < len(words) and words[word][1] <= begin:
            word += 1
        if word == len(words):
            break
        if places[word] < 0 and words[word][0] <= begin:
            places[word] = token
    return places


def cut_at_word(ids: Sequence[int], places: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """The tokens of a text that fit, up to the end of a word, and the places of the words that are read.

    A first word that has more tokens than fit is cut inside.

    Args:
        ids: without special tokens. places: of each word among them. room: tokens.
    """
    if len(ids) <= room:
        return list(ids), list(places)
    end = max((place for place in places if 0 < place <= room), default=room)
    beyond = next((word for word, place in enumerate(places) if place >= end), len(places))
    return list(ids[:end]), list(places[:beyond])
