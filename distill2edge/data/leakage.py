"""Are held-out rows in the training rows? Exact after normalisation, and near-duplicates by Jaccard similarity."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from distill2edge.data.shingle_index import Found, ShingleIndex

_BATCH = 1024  # rows that are looked up together

# Scripts written without spaces: each character counts as a word.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# In ASCII alone, small letters and digits: a table is four times as fast as the expression below.
_FOLDED = str.maketrans({chr(code): chr(code).lower() if chr(code).isalnum() else " " for code in range(128)})
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


Content = str | tuple[str, ...]
"""What of a row is compared: its text, or each of its texts."""


@dataclass(frozen=True)
class Leak:
    """A training row that is, or nearly is, a held-out row. Both are indices; similarity 1.0 is exact."""

    train: int
    test: int
    similarity: float


@dataclass(frozen=True)
class LeakageReport:
    """What was found.

    Attributes:
        exact, near: held-out rows with an exact (after normalisation), or else a near duplicate in train.
        leaks: one for each training row that leaks, with the most similar held-out row.
    """

    test_rows: int
    exact: int
    near: int
    threshold: float
    leaks: list[Leak] = field(default_factory=list)

    @property
    def fraction(self) -> float:
        """Share of held-out rows that leak."""
        return (self.exact + self.near) / self.test_rows if self.test_rows else 0.0


def words(text: str) -> list[str]:
    """Words in normal form: NFKC, case folded, punctuation and spacing gone; emoji and the like are kept if alone."""
    if text.isascii():
        return text.translate(_FOLDED).split() or text.lower().split()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(folded) or folded.split()


def normal_form(content: Content) -> str:
    """What exact duplicates share."""
    if isinstance(content, str):
        return " ".join(words(content))
    return _joined([words(text) for text in content])


def readable(content: Content) -> str:
    """For people."""
    return content if isinstance(content, str) else " | ".join(content)


def check(train: Iterable[Content], test: Sequence[Content], threshold: float) -> LeakageReport:
    """Compare every training row with every held-out row.

    Exact, not sampled: an index of the held-out shingles gives the intersection with each training row, hence
    |A & B| / |A | B|. Rows of two texts are as similar as the less similar of these: one passage with another
    question is another row. Memory grows with the held-out texts only; time with the training words.

    Args:
        train: rows, read once.
        test: rows.
        threshold: similarity from which two rows are the same, in (0, 1].
    """
    held = [[words(each) for each in _texts(content)] for content in test]
    twins: dict[str, list[int]] = {}
    for row, lists in enumerate(held):
        twins.setdefault(_joined(lists), []).append(row)
    sides = [ShingleIndex(lists) for lists in zip(*held, strict=True)]

    exact_rows: set[int] = set()
    near_rows: set[int] = set()
    leaks: list[Leak] = []
    for number, normal, candidates in _candidates(train, sides):
        best: tuple[float, int] | None = None
        if normal and normal in twins:
            exact_rows.update(twins[normal])
            best = (1.0, twins[normal][0])
        for row, similarity in candidates:
            if similarity >= threshold:
                near_rows.add(row)
                if best is None or similarity > best[0]:
                    best = (similarity, row)
        if best:
            leaks.append(Leak(number, best[1], best[0]))
    return LeakageReport(len(test), len(exact_rows), len(near_rows - exact_rows), threshold, leaks)


def _candidates(
    contents: Iterable[Content], sides: Sequence[ShingleIndex]
) -> Iterator[tuple[int, str, list[tuple[int, float]]]]:
    """Of each content its number, its normal form, and the held-out rows that share a shingle with it, with their
    similarity."""
    rest, at = iter(contents), 0
    while batch := list(islice(rest, _BATCH)):
        read = [[words(each) for each in _texts(content)] for content in batch]
        found = [side.look_up(lists) for side, lists in zip(sides, zip(*read, strict=True), strict=bool(sides))]
        hit = np.logical_or.reduce([each.hits for each in found]) if found else np.zeros(len(batch), bool)
        for number, lists in enumerate(read):
            similar = _similar(found, number) if hit[number] else []
            yield at + number, _joined(lists), similar
        at += len(batch)


def _similar(found: Sequence[Found], number: int) -> list[tuple[int, float]]:
    shared = [side.shared(number) for side in found]
    own = [side.own(number) for side in found]
    return [
        (row, min(side.similarity(mine, row, each[row]) for side, mine, each in zip(found, own, shared, strict=True)))
        for row in sorted({row for each in shared for row in each})
    ]


def _joined(lists: Sequence[Sequence[str]]) -> str:
    """The normal form of a content whose texts have these words."""
    return "\x1f".join(map(" ".join, lists)) if any(lists) else ""


def _texts(content: Content) -> tuple[str, ...]:
    return (content,) if isinstance(content, str) else content


def overlaps(texts: Iterable[str], test: Sequence[str]) -> list[float]:
    """For each text, the highest similarity with a held-out text, in [0, 1]; 1.0 is the same after normalisation.

    Jaccard similarity of the word 5-shingles, as in `check`.
    """
    held = [words(text) for text in test]
    twins = set(map(" ".join, held)) - {""}
    sides = [ShingleIndex(held)] if held else []
    return [
        1.0 if normal in twins else max((similarity for _, similarity in candidates), default=0.0)
        for _, normal, candidates in _candidates(texts, sides)
    ]
