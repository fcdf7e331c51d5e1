"""Scores of sets of labels. Pure: matrices of truth values [n, C] in, figures out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill2edge.verify.trivial_baselines import TrivialBaseline

Sets = NDArray[np.bool_]
Floats = NDArray[np.float64]
_BINS = 15


def micro_f1(said: Sets, truth: Sets) -> list[float]:
    """[n] each text's influence on F1 = 2 TP / (2 TP + FP + FN) over all labels of all texts; their mean is F1.

    F1 is a ratio of two means over texts, A of 2 TP and B of what is said and true. A text's influence is
    F1 + (a - F1 b) / B, so that an interval of their mean is that of the ratio to the first order (the delta method).
    Where no text has a label and none is said, F1 is 1.
    """
    hits = 2.0 * (said & truth).sum(axis=1)
    either = (said.sum(axis=1) + truth.sum(axis=1)).astype(float)
    if not either.any():
        return [1.0] * len(truth)
    score = hits.sum() / either.sum()
    return [float(value) for value in score + (hits - score * either) / either.mean()]


def label_f1(said: Sets, truth: Sets) -> list[float | None]:
    """[C] F1 of each label alone; None of one that no text has and none is said to have."""
    hits, either = 2.0 * (said & truth).sum(axis=0), said.sum(axis=0) + truth.sum(axis=0)
    return [float(hit / count) if count else None for hit, count in zip(hits, either, strict=True)]


def macro_f1(said: Sets, truth: Sets) -> float:
    """Mean of `label_f1` over the labels that have one; 1 where none has."""
    found = [value for value in label_f1(said, truth) if value is not None]
    return float(np.mean(found)) if found else 1.0


def exact(said: Sets, truth: Sets) -> list[float]:
    """[n] 1 where the whole set is right, else 0."""
    return [float(value) for value in (said == truth).all(axis=1)]


def calibration_error(probability: Floats, truth: Sets) -> float:
    """Expected calibration error of all labels of all texts: mean over 15 bins of equal width of |share of labels that
    are there - mean probability|, weighed by their labels (Naeini et al. 2015, for two classes).

    Args:
        probability: [n, C].
    """
    sure, there = probability.ravel(), truth.ravel().astype(float)
    place = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    gaps = [abs(there[place == at].sum() - sure[place == at].sum()) for at in range(_BINS)]
    return float(sum(gaps) / len(there))


def constant_set(truth: Sets, names: Sequence[str]) -> TrivialBaseline:
    """Always the one set that has the best micro F1: the k commonest labels, for the best k of at least 1.

    For a given size no other set has more hits, so none has a better F1.

    Args:
        truth: of the held-out rows.
        names: of the labels.
    """
    counts = truth.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    total, rows = counts.sum(), len(truth)
    scores = [2 * counts[order[:size]].sum() / (size * rows + total) for size in range(1, len(names) + 1)]
    chosen = sorted(int(index) for index in order[: int(np.argmax(scores)) + 1])
    said = np.zeros_like(truth)
    said[:, chosen] = True
    return TrivialBaseline(
        f"always {{{', '.join(repr(names[index]) for index in chosen)}}}, the constant set with the best F1",
        micro_f1(said, truth),
        None,
        tuple((name, int(count)) for name, count in zip(names, counts, strict=True)),
        fair="macro F1",
    )


def commonest_set(truth: Sets, names: Sequence[str]) -> tuple[str, list[float]]:
    """The set that most texts have, as people write it, and [n] whether each has it."""
    held = [tuple(np.flatnonzero(row).tolist()) for row in truth]
    best, _ = Counter(held).most_common(1)[0]
    return f"{{{', '.join(repr(names[index]) for index in best)}}}", [float(each == best) for each in held]
