"""ROUGE-L against everything kept so far: exact, and fast enough for tens of thousands of instructions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from distill2edge.data.leakage import words


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, bit-parallel (Hyyro 2004): one addition for each word of `b`."""
    places: dict[str, int] = {}
    for position, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << position
    everything = (1 << len(a)) - 1
    row = everything
    for word in b:
        if found := places.get(word):
            matched = row & found
            row = ((row + matched) | (row - matched)) & everything
    return len(a) - row.bit_count()


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, section 3, beta = 1), in [0, 1]."""
    return 2 * lcs_length(a, b) / (len(a) + len(b)) if a or b else 1.0


class Pool:
    """What was kept. Asks whether a text is nearly one of them.

    Only texts that share enough words are compared: the common subsequence is never longer than the words in common,
    so nothing above the threshold is missed.

    Args:
        threshold: ROUGE-L above which two texts are the same.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._texts: list[list[str]] = []
        self._names: list[str] = []
        self._index: dict[tuple[str, int], list[int]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def nearest(self, text: str) -> tuple[str, float] | None:
        """Name and similarity of the nearest one above the threshold; None where there is none."""
        mine = words(text)
        shared = Counter(number for token in _numbered(mine) for number in self._index.get(token, ()))
        if not mine:
            shared = Counter({number: 0 for number, other in enumerate(self._texts) if not other})
        best: tuple[float, int] | None = None
        for number, common in shared.items():
            other = self._texts[number]
            if mine and 2 * common / (len(mine) + len(other)) <= max(self._threshold, best[0] if best else 0.0):
                continue
            found = rouge_l(mine, other)
            if found > self._threshold and (best is None or found > best[0]):
                best = (found, number)
        return None if best is None else (self._names[best[1]], best[0])

    def add(self, text: str, name: str) -> None:
        """Keep a text."""
        mine, number = words(text), len(self._texts)
        self._texts.append(mine)
        self._names.append(name)
        for token in _numbered(mine):
            self._index.setdefault(token, []).append(number)


def _numbered(found: Sequence[str]) -> list[tuple[str, int]]:
    """The second `the` of a text is another token than the first, so that repeated words count."""
    counts: Counter[str] = Counter()
    numbered = []
    for word in found:
        counts[word] += 1
        numbered.append((word, counts[word]))
    return numbered
