"""Precision, recall and F1 of entities: exact bounds and type, counted over all rows (micro average). Pure.

The measure of CoNLL-2003 (Tjong Kim Sang and De Meulder 2003, section 2.3): an entity is right if it is an entity of
the data, its first and last word and its type included; F1 = 2 P R / (P + R) = 2 hits / (found + wanted).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distill2edge.models.tags import Entity
from distill2edge.util.bootstrap import Figure, mean_interval


class Counts(NamedTuple):
    """Of one row."""

    hits: int
    found: int
    wanted: int


def counts_of(found: Sequence[Entity], wanted: Sequence[Entity], label: str | None = None) -> Counts:
    """How many entities were found, were wanted, and both; of one type, if it is given."""
    ours, theirs = ({each for each in side if label in (None, each.label)} for side in (found, wanted))
    return Counts(len(ours & theirs), len(ours), len(theirs))


def row_values(rows: Sequence[Counts]) -> list[float]:
    """[n] values of rows, whose mean is F1: what resamples rows serves it so.

    F1 is a ratio of two sums over rows, so the value of a row is F1 plus the row's influence on it,
    (2 hits - F1 (found + wanted)) / mean(found + wanted) (the linearised ratio: Cochran 1977, section 6.3). Rows
    without any entity, found or wanted, leave F1 as it is. Without any at all F1 is 0.
    """
    twice = np.array([2.0 * row.hits for row in rows])
    total = np.array([float(row.found + row.wanted) for row in rows])
    if not total.sum():
        return [0.0] * len(rows)
    value = twice.sum() / total.sum()
    return [float(each) for each in value + (twice - value * total) / total.mean()]


def share(parts: Sequence[int], wholes: Sequence[int], seed: int) -> Figure | None:
    """sum(parts) / sum(wholes) over rows, with its interval: precision (of those found), recall (of those wanted).

    Returns:
        None where the wholes are 0.
    """
    if not sum(wholes):
        return None
    each = [part / whole if whole else 0.0 for part, whole in zip(parts, wholes, strict=True)]
    return mean_interval(each, [float(whole) for whole in wholes], seed=seed)


def f1(rows: Sequence[Counts], seed: int) -> Figure | None:
    """F1 with its interval; None where nothing was found and nothing wanted."""
    return share([2 * row.hits for row in rows], [row.found + row.wanted for row in rows], seed)
