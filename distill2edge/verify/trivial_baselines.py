"""What needs no model: the largest class, the commonest answer, a unigram model. A score means little near them.

Pure: rows in, a score for each row out, in the unit of the models' own `score`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded


@dataclass(frozen=True)
class TrivialBaseline:
    """A rule that looks at no prompt.

    Attributes:
        name: what it does, as the report says it.
        score: [rows] 1 or 0, or the sum of log p over the row's supervised tokens.
        chance: expected score of a guess among the classes; None where answers are open.
        classes: label and held-out rows of each class; empty where answers are open.
        fair: the figure that counts small classes as much as large ones.
    """

    name: str
    score: list[float]
    chance: float | None = None
    classes: tuple[tuple[str, int], ...] = ()
    fair: str = "balanced accuracy"


def largest_class(labels: Sequence[int], names: Sequence[str]) -> TrivialBaseline:
    """Always the class that most held-out rows have: no constant answer does better on them.

    Args:
        labels: [rows] index of each row's class.
        names: of all classes.
    """
    counts = Counter(labels)
    best = max(range(len(names)), key=lambda index: counts[index])
    return TrivialBaseline(
        f"always {names[best]!r}, the largest class",
        [float(label == best) for label in labels],
        1 / len(names),
        tuple((name, counts[index]) for index, name in enumerate(names)),
    )


def commonest_answer(answers: Sequence[Sequence[int]]) -> TrivialBaseline:
    """Always the response that most held-out rows have."""
    written = [tuple(answer) for answer in answers]
    best, _ = Counter(written).most_common(1)[0]
    return TrivialBaseline("always the most common answer", [float(answer == best) for answer in written])


def unigram(rows: Sequence[Encoded]) -> TrivialBaseline:
    """Each supervised token by its count in the other held-out rows, plus one, over the tokens that occur."""
    tokens = [[token for token, on in zip(row.ids, row.mask, strict=True) if on] for row in rows]
    counts = Counter(token for row in tokens for token in row)
    total = sum(counts.values())
    score = []
    for row in tokens:
        own = Counter(row)
        rest = total - len(row) + len(counts)
        score.append(sum(math.log((counts[token] - own[token] + 1) / rest) for token in row))
    return TrivialBaseline("unigram model: each token by its frequency", score)


def balanced_accuracy(score: Sequence[float], labels: Sequence[int]) -> float:
    """Mean over the classes that occur of the share of their rows that are right."""
    right, classes = np.asarray(score), np.asarray(labels)
    return float(np.mean([right[classes == label].mean() for label in np.unique(classes)]))
