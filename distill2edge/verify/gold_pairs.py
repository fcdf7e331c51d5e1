"""How a model's cosines of pairs of texts go with the scores that people gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill2edge.util.bootstrap import difference_interval, mean_interval
from distill2edge.verify.correlation import Floats as Doubles
from distill2edge.verify.correlation import spearman
from distill2edge.verify.scores import Floats

DEFINITION = (
    "Spearman's rank correlation of the cosines of a model's two vectors with the scores of the pairs; "
    "against_teacher: that minus the teacher's. Intervals: over pairs, of the mean of their influence on it"
)


def add_to(entries: Sequence[dict[str, Any]], vectors: Mapping[str, Floats], gold: Sequence[float], seed: int) -> None:
    """Put `gold_pairs` into the entries of models: `spearman`, and of all but the teacher `against_teacher`, paired.

    Args:
        vectors: [2n, D] of each model that ran: first and second text of each pair, one after the other.
        gold: [n] scores.
    """
    scores = np.asarray(gold, dtype=np.float64)
    values = {name: spearman(cosines(found), scores) for name, found in vectors.items()}
    theirs = values.get("teacher")
    for entry in entries:
        own = values.get(entry["id"])
        if own is None:
            continue
        found: dict[str, Any] = {"spearman": mean_interval(own, seed=seed).as_dict(), "against_teacher": None}
        if theirs is not None and entry["id"] != "teacher":
            found["against_teacher"] = difference_interval(own, theirs, seed=seed).as_dict()
        entry["gold_pairs"] = found


def cosines(vectors: Floats) -> Doubles:
    """[n] of the first and the second vector of each pair [2n, D]."""
    whole = np.asarray(vectors, dtype=np.float64)
    whole = whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)
    return np.asarray((whole[::2] * whole[1::2]).sum(1))
