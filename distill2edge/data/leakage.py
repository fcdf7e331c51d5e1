"""Are held-out rows in the training rows? Exact after normalisation, and near-duplicates by Jaccard similarity."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

SHINGLE = 5  # words
_FRAME = 0.5  # a shingle in more than this share of the held-out rows is the form they share, not their content
_FRAME_ROWS = 20  # below this many held-out rows the share says nothing

# Scripts written without spaces: each character counts as a word.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# In ASCII alone, all but letters and digits: a table is four times as fast as the expression below.
_BETWEEN = str.maketrans({chr(code): " " for code in range(128) if not chr(code).isalnum()})
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
        return text.lower().translate(_BETWEEN).split() or text.lower().split()
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(folded) or folded.split()


def normal_form(content: Content) -> str:
    """What exact duplicates share."""
    if isinstance(content, str):
        return " ".join(words(content))
    parts = [" ".join(words(text)) for text in content]
    return "\x1f".join(parts) if any(parts) else ""


def readable(content: Content) -> str:
    """For people."""
    return content if isinstance(content, str) else " | ".join(content)


def shingles(text: str) -> set[int]:
    """Hashes of the word 5-shingles of a text; a text of fewer words is one shingle."""
    found = words(text)
    if not found:
        return set()
    runs = [found[i : i + SHINGLE] for i in range(max(len(found) - SHINGLE + 1, 1))]
    return {_hash(" ".join(run)) for run in runs}


def check(train: Iterable[Content], test: Sequence[Content], threshold: float) -> LeakageReport:
    """Compare every training row with every held-out row.

    Exact, not sampled: an inverted index over the held-out shingles gives the intersection with each training row,
    hence |A & B| / |A | B|. Rows of two texts are as similar as the less similar of these: one passage with another
    question is another row. Memory grows with the held-out texts only; time with the training words.

    Args:
        train: rows, read once.
        test: rows.
        threshold: similarity from which two rows are the same, in (0, 1].
    """
    twins: dict[str, list[int]] = {}
    for row, text in enumerate(test):
        twins.setdefault(normal_form(text), []).append(row)
    sides = [_Side(texts) for texts in zip(*map(_texts, test), strict=True)]

    exact_rows: set[int] = set()
    near_rows: set[int] = set()
    leaks: list[Leak] = []
    for number, text in enumerate(train):
        best: tuple[float, int] | None = None
        normal = normal_form(text)
        if normal and normal in twins:
            exact_rows.update(twins[normal])
            best = (1.0, twins[normal][0])
        mine = [side.own(each) for side, each in zip(sides, _texts(text), strict=bool(sides))]
        shared = [side.shared(own) for side, own in zip(sides, mine, strict=True)]
        for row in dict.fromkeys(row for each in shared for row in each):
            parts = zip(sides, mine, shared, strict=True)
            similarity = min(side.similarity(own, row, each[row]) for side, own, each in parts)
            if similarity >= threshold:
                near_rows.add(row)
                if best is None or similarity > best[0]:
                    best = (similarity, row)
        if best:
            leaks.append(Leak(number, best[1], best[0]))
    return LeakageReport(len(test), len(exact_rows), len(near_rows - exact_rows), threshold, leaks)


def _texts(content: Content) -> tuple[str, ...]:
    return (content,) if isinstance(content, str) else content


class _Side:
    """The held-out rows' texts on one side of a pair, or the only ones."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._sets, self._frame = _without_frame([shingles(text) for text in texts])
        self._index: dict[int, list[int]] = {}
        for row, found in enumerate(self._sets):
            for shingle in found:
                self._index.setdefault(shingle, []).append(row)

    def own(self, text: str) -> set[int]:
        """The shingles of another text."""
        return shingles(text) - self._frame

    def shared(self, own: set[int]) -> Counter[int]:
        """How many of these each held-out text has, of those that have any."""
        return Counter(row for shingle in own for row in self._index.get(shingle, ()))

    def similarity(self, own: set[int], row: int, both: int) -> float:
        """Jaccard similarity with a held-out text that shares so many; 1 where neither says more than the frame."""
        either = len(own) + len(self._sets[row]) - both
        return both / either if either else 1.0


def overlaps(texts: Iterable[str], test: Sequence[str]) -> list[float]:
    """For each text, the highest similarity with a held-out text, in [0, 1]; 1.0 is the same after normalisation.

    Jaccard similarity of the word 5-shingles, as in `check`.
    """
    twins = {normal_form(text) for text in test} - {""}
    sets, frame = _without_frame([shingles(text) for text in test])
    index: dict[int, list[int]] = {}
    for row, found in enumerate(sets):
        for shingle in found:
            index.setdefault(shingle, []).append(row)
    highest = []
    for text in texts:
        mine = shingles(text) - frame
        shared = Counter(row for shingle in mine for row in index.get(shingle, ()))
        best = max((both / (len(mine) + len(sets[row]) - both) for row, both in shared.items()), default=0.0)
        highest.append(1.0 if normal_form(text) in twins else best)
    return highest


def _without_frame(sets: list[set[int]]) -> tuple[list[set[int]], set[int]]:
    """Take out shingles that most held-out rows share (an instruction repeated in each row)."""
    frame: set[int] = set()
    if len(sets) >= _FRAME_ROWS:
        counts = Counter(shingle for found in sets for shingle in found)
        frame = {shingle for shingle, count in counts.items() if count > _FRAME * len(sets)}
    return [found - frame for found in sets], frame


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
