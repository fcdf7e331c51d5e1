"""Neighbours of texts by their vectors, against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest

from distill2edge.verify import neighbours


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)


def test_the_nearest_are_those_of_the_greatest_cosine(vectors: np.ndarray) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = neighbours.nearest(neighbours.similarities(vectors))
    for index, near in enumerate(found):
        others = [other for other in range(30) if other != index]
        assert list(near) == sorted(others, key=lambda other: -float(unit[index] @ unit[other]))[:10]


def test_recall_counts_whatever_their_order_and_length_does_not_matter(vectors: np.ndarray) -> None:
    wanted = neighbours.nearest(neighbours.similarities(vectors))
    longer = vectors * np.linspace(1, 9, 30)[:, None].astype(np.float32)
    assert neighbours.recall(neighbours.nearest(neighbours.similarities(longer))[:, ::-1], wanted) == [1.0] * 30
    moved = np.where(wanted == wanted[:, :1], -1, wanted)  # one of ten is another
    assert neighbours.recall(moved, wanted) == [0.9] * 30


def test_the_first_numbers_alone_have_neighbours_of_their_own(vectors: np.ndarray) -> None:
    short = neighbours.nearest(neighbours.similarities(vectors, 3))
    assert (short == neighbours.nearest(neighbours.similarities(vectors[:, :3]))).all()
    assert 0.3 < np.mean(neighbours.recall(short, neighbours.nearest(neighbours.similarities(vectors)))) < 0.95


def test_the_share_of_likeness_adds_up_to_one(vectors: np.ndarray) -> None:
    spread = neighbours.distribution(neighbours.similarities(vectors))
    assert spread.shape == (30, 29)
    np.testing.assert_allclose(np.exp(spread).sum(1), 1, atol=1e-5)


def test_rare_shared_words_make_neighbours_without_a_model() -> None:
    texts = [[1, 2, 7], [1, 3, 7], [1, 2, 8], [1, 4, 9], [1, 5, 9, 9]]
    near = neighbours.nearest(neighbours.shared_words(texts), 1)[:, 0]
    assert near[3] == 4
    assert near[4] == 3
    assert near[0] in (1, 2)
