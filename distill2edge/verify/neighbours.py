"""Which texts are near one another by their vectors: pure functions of [n, D] arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from distill2edge.tasks.embedding import COUNT
from distill2edge.verify.scores import Floats, log_softmax

SCALE = 20.0
"""Of cosines before a softmax, as in training."""


def similarities(vectors: Floats, size: int | None = None) -> Floats:
    """[n, n] cosines of texts; of the first `size` dimensions of their vectors. That of a text to itself is -inf."""
    part = np.asarray(vectors, dtype=np.float64)[:, :size]
    part = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
    found = part @ part.T
    np.fill_diagonal(found, -np.inf)
    return np.asarray(found, dtype=np.float32)


def nearest(similar: Floats, count: int = COUNT) -> NDArray[np.int64]:
    """[n, count] of each text the nearest others, the nearest first; all others where there are fewer."""
    count = min(count, len(similar) - 1)
    return np.argsort(-similar, axis=1, kind="stable")[:, :count]


def recall(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> list[float]:
    """[n] share of each text's wanted neighbours that are found."""
    return [len(set(ours) & set(theirs)) / len(theirs) for ours, theirs in zip(found, wanted, strict=True)]


def distribution(similar: Floats) -> Floats:
    """[n, n - 1] log of each text's softmax of likeness over the others."""
    count = len(similar)
    others = similar[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    return log_softmax(SCALE * others)


def shared_words(texts: Sequence[Sequence[int]]) -> Floats:
    """[n, n] cosines of the texts' token counts, each weighed by how few texts have the token (TF-IDF): no model."""
    tokens = sorted({token for text in texts for token in text})
    column = {token: index for index, token in enumerate(tokens)}
    counts = np.zeros((len(texts), len(tokens)), dtype=np.float32)
    for index, text in enumerate(texts):
        for token in text:
            counts[index, column[token]] += 1
    rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(0))) + 1
    return similarities(np.log1p(counts) * rarity)
