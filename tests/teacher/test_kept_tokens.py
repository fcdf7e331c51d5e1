"""What a compact signal keeps: a sample whose weights have no bias and the least variance, or most of the mass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.distill.compact_signal import Kept, pack, unpack
from distill2edge.teacher.kept_tokens import by_mass, sampled, uniforms

CASES = settings(max_examples=40)


def made(seed: int, positions: int, vocabulary: int, spread: float) -> torch.Tensor:
    return torch.randn(positions, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def dense(kept: Kept, vocabulary: int) -> np.ndarray:
    table = np.zeros((len(kept.counts), vocabulary))
    np.add.at(table, (np.repeat(np.arange(len(kept.counts)), kept.counts), kept.tokens), kept.stands_for)
    return table


@settings(max_examples=50)
@given(
    st.integers(0, 1000), st.sampled_from([2, 3, 17, 300]), st.sampled_from([2, 5, 48, 400]),
    st.sampled_from([0.0, 0.3, 2.0, 8.0, 100.0]), st.sampled_from([1.0, 2.0]),
)  # fmt: skip
def test_a_sample_adds_up_and_keeps_no_more_than_asked(seed, vocabulary, sample, spread, temperature):
    logits = made(seed, 6, vocabulary, spread)
    kept = sampled(logits, sample, temperature, uniforms(seed, "row", 6))
    p = torch.softmax(logits.double() / temperature, -1).numpy()
    at = np.repeat(np.arange(6), kept.counts)
    assert (kept.counts >= 1).all()
    assert (kept.counts <= min(sample, vocabulary)).all()
    np.testing.assert_allclose(np.bincount(at, weights=kept.stands_for), 1.0, atol=2e-5)
    np.testing.assert_allclose(kept.stands_for[kept.own], p[at, kept.tokens][kept.own], rtol=1e-4, atol=1e-7)
    assert (kept.stands_for[kept.own] * sample >= 0.5 - 1e-4).all()
    # None stands for more than 1 / N, but for itself; whatever has that much is kept.
    assert (kept.stands_for <= np.maximum(1 / sample, p[at, kept.tokens]) + 1e-5).all()
    assert (dense(kept, vocabulary)[p * sample > 1.001] > 0).all()
    np.testing.assert_allclose(kept.extra, -np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0).sum(-1), atol=1e-4)


@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize(("sample", "spread", "temperature"), [(4, 1.0, 1.0), (12, 2.0, 1.0), (8, 3.0, 2.0)])
def test_the_mean_of_many_samples_is_the_distribution(sample, spread, temperature, coded):
    """Within four standard errors of each probability; in eight bits within their rounding as well."""
    draws, vocabulary = 4000, 30
    logits = made(3, 1, vocabulary, spread).expand(draws, -1)
    kept = sampled(logits, sample, temperature, uniforms(0, "row", draws))
    if coded:
        kept = unpack(pack(kept, sample), sample)
    found = dense(kept, vocabulary)
    p = torch.softmax(logits[0].double() / temperature, -1).numpy()
    error = np.abs(found.mean(0) - p)
    rounding = p * np.log(2 * sample) / 255 if coded else 1e-6
    assert (error < 4 * found.std(0) / np.sqrt(draws) + rounding).all()
    if not coded:  # no more variance than that of as many tokens of the draws of sparse logit sampling
        assert found.var(0).sum() < (p * (1 - p)).sum() / sample


def test_draws_are_of_seed_example_and_position():
    assert uniforms(1, "a", 5)[:3].tolist() == uniforms(1, "a", 3).tolist()
    others = {tuple(uniforms(seed, name, 2)) for seed in (0, 1) for name in ("a", "b")}
    assert len(others) == 4
    assert 0.45 < uniforms(0, "a", 4000).mean() < 0.55
    assert uniforms(0, "a", 2).tolist() == pytest.approx([0.7775041192052718, 0.28860225821201335], abs=0)


def test_a_sample_is_the_same_in_any_pieces(monkeypatch):
    logits, drawn = made(0, 9, 50, 2.0), uniforms(0, "row", 9)
    whole = sampled(logits, 7, 1.0, drawn)
    monkeypatch.setattr("distill2edge.teacher.kept_tokens.BLOCK", 120)
    for one, other in zip(whole, sampled(logits, 7, 1.0, drawn), strict=True):
        np.testing.assert_array_equal(one, other)


@CASES
@given(st.integers(0, 1000), st.sampled_from([3, 40]), st.sampled_from([0.1, 3.0, 50.0]), st.floats(0.01, 0.999))
def test_the_fewest_tokens_that_hold_the_mass(seed, k, spread, mass):
    logits = made(seed, 5, 40, spread)
    kept = by_mass(logits, k, mass, 2.0)
    p = torch.softmax(logits.double() / 2.0, -1)
    table, ranked = dense(kept, 40), p.sort(-1, descending=True).values.cumsum(-1).numpy()
    for row, count in enumerate(kept.counts):
        assert count == min(k, int((ranked[row] < mass - 1e-6).sum()) + 1) or abs(ranked[row] - mass).min() < 1e-5
        np.testing.assert_allclose(table[row].sum() + np.exp(kept.rest[row]), 1.0, atol=1e-5)
    held = table > 0
    np.testing.assert_allclose(table[held], p.numpy()[held], rtol=1e-4)
    read = dense(unpack(pack(kept, None), None), 40)
    np.testing.assert_allclose(read[held], table[held], rtol=0.05 + 0.004 * np.abs(np.log(table[held])).max())
