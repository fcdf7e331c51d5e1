"""An index of the word shingles of some texts, in which others are looked up many at a time.

A shingle is known by 64 bits of a hash. Arrays hold 12 bytes for each shingle of an indexed text, and what is looked up
is not held: memory grows with the indexed texts alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

SHINGLE = 5  # words
_FRAME = 0.5  # a shingle in more than this share of the indexed texts is the form they share, not their content
_FRAME_TEXTS = 20  # below this many indexed texts the share says nothing
# Odd numbers without a pattern: one for each place in a shingle, and one for its length.
_PLACES = tuple(map(np.uint64, (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F,
                                0xE7037ED1A0B428DB)))  # fmt: skip
_LENGTH = np.uint64(0x8EBC6AF09C88C6E3)


class ShingleIndex:
    """The shingles of texts, without those that most of them share (an instruction repeated in each).

    Attributes:
        sizes: of each text, how many different shingles it has beside those.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        """`texts`: the words of each."""
        found = _hashed(texts)
        numbers = np.repeat(np.arange(len(texts), dtype=np.int32), np.diff(found.starts))
        order = np.lexsort((numbers, found.hashes))
        hashes, numbers = found.hashes[order], numbers[order]
        another = np.ones(len(hashes), bool)
        another[1:] = (hashes[1:] != hashes[:-1]) | (numbers[1:] != numbers[:-1])
        hashes, numbers = hashes[another], numbers[another]
        keys, counts = np.unique(hashes, return_counts=True)
        frame = counts > _FRAME * len(texts) if len(texts) >= _FRAME_TEXTS else np.zeros(len(keys), bool)
        self._frame, self._keys = keys[frame], keys[~frame]
        self._numbers = numbers[~np.repeat(frame, counts)]
        self._starts = np.concatenate([[0], np.cumsum(counts[~frame])])
        self.sizes = np.bincount(self._numbers, minlength=len(texts))

    def look_up(self, texts: Sequence[Sequence[str]]) -> Found:
        """What some texts share with the indexed ones; their words."""
        hashed = _hashed(texts)
        places = np.searchsorted(self._keys, hashed.hashes)
        known = np.zeros(len(places), bool)
        inside = places < len(self._keys)
        known[inside] = self._keys[places[inside]] == hashed.hashes[inside]
        return Found(self, hashed, np.where(known, places, -1))

    def own(self, hashes: np.ndarray) -> int:
        """How many different ones of these shingles are not in the frame."""
        different = np.unique(hashes)
        return len(different) - int(np.isin(different, self._frame).sum())

    def numbers(self, places: np.ndarray) -> Counter[int]:
        """How many of the shingles at these different places each indexed text has, of those that have any."""
        return Counter(
            chain.from_iterable(self._numbers[self._starts[at] : self._starts[at + 1]].tolist() for at in places)
        )


@dataclass(frozen=True)
class Found:
    """What texts that were looked up share with the indexed ones."""

    index: ShingleIndex
    hashed: _Hashed
    places: np.ndarray

    @cached_property
    def hits(self) -> np.ndarray:
        """[texts] bool: whether a text shares a shingle with any."""
        ends = np.concatenate([[0], np.cumsum(self.places >= 0)])[self.hashed.starts]
        return np.diff(ends) > 0

    def shared(self, text: int) -> Counter[int]:
        """How many shingles it has in common with each indexed text, of those with any."""
        places = np.unique(self.places[self.hashed.of(text)])
        return self.index.numbers(places[places >= 0])

    def own(self, text: int) -> int:
        """How many different shingles it has, the frame's not counted."""
        return self.index.own(self.hashed.hashes[self.hashed.of(text)])

    def similarity(self, own: int, indexed: int, both: int) -> float:
        """Jaccard similarity of a text of `own` shingles with an indexed one that shares `both` of them; 1 where
        neither says more than the frame."""
        either = own + int(self.index.sizes[indexed]) - both
        return both / either if either else 1.0


@dataclass(frozen=True)
class _Hashed:
    """Shingles of texts, one text after another; a text that repeats one has it as often.

    Attributes:
        hashes: [n] uint64.
        starts: [texts + 1] where each text's begin.
    """

    hashes: np.ndarray
    starts: np.ndarray

    def of(self, text: int) -> slice:
        """Where a text's are."""
        return slice(int(self.starts[text]), int(self.starts[text + 1]))


def _hashed(texts: Sequence[Sequence[str]]) -> _Hashed:
    """The word 5-shingles of texts; a text of fewer words is one shingle."""
    counts = np.fromiter(map(len, texts), np.int64, len(texts))
    begins = np.concatenate([[0], np.cumsum(counts)])
    words = np.fromiter(map(hash, chain.from_iterable(texts)), np.int64, int(begins[-1])).view(np.uint64)
    words = np.concatenate([words, np.zeros(SHINGLE, np.uint64)])
    sizes = np.where(counts == 0, 0, np.maximum(counts - SHINGLE + 1, 1))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    first = np.repeat(begins[:-1] - starts[:-1], sizes) + np.arange(starts[-1])
    lengths = np.repeat(np.minimum(counts, SHINGLE), sizes)
    hashes = lengths.astype(np.uint64) * _LENGTH
    for place, factor in enumerate(_PLACES):
        hashes += np.where(place < lengths, words[first + place] * factor, np.uint64(0))
    return _Hashed(hashes, starts)
