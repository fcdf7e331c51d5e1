"""Types under a budget, compensated rounding, and the sensitivity that both rest on."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.errors import UserError
from distill2edge.models.loading import load_model
from distill2edge.quantize.allocation import Pace, choose, hull
from distill2edge.quantize.fisher import collect_fisher
from distill2edge.quantize.rounding import compensate, inverse
from distill2edge.quantize.scales import TensorGrid
from distill2edge.quantize.sensitivity import options
from distill2edge.util.progress import SilentProgress
from tests.tiny import tiny_llama

costs = st.dictionaries(st.sampled_from("abcde"), st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(("x", "y", "z", "w")), costs, min_size=1), st.integers(0, 200))
def test_the_choice_fits_and_is_no_worse_than_any_single_type(
    table: dict[str, dict[str, tuple[int, float]]], more: int
) -> None:
    least = sum(min(size for size, _ in kinds.values()) for kinds in table.values())
    budget = least + more
    chosen = choose(table, budget)
    assert sum(table[name][kind][0] for name, kind in chosen.items()) <= budget
    loss = sum(table[name][kind][1] for name, kind in chosen.items())
    for kind in "abcde":
        if all(kind in kinds for kinds in table.values()):
            size = sum(kinds[kind][0] for kinds in table.values())
            if size <= budget:
                assert loss <= sum(kinds[kind][1] for kinds in table.values()) + 1e-9


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(("x", "y", "z")), costs, min_size=1), st.integers(0, 100))
def test_the_choice_is_near_the_best_of_all(table: dict[str, dict[str, tuple[int, float]]], more: int) -> None:
    budget = sum(min(size for size, _ in kinds.values()) for kinds in table.values()) + more
    names = list(table)
    every = itertools.product(*(table[name] for name in names))
    best = min(
        sum(table[n][k][1] for n, k in zip(names, kinds, strict=True))
        for kinds in every
        if sum(table[n][k][0] for n, k in zip(names, kinds, strict=True)) <= budget
    )
    chosen = choose(table, budget)
    worst = sum(max(loss for _, loss in kinds.values()) for kinds in table.values())
    assert sum(table[n][k][1] for n, k in chosen.items()) <= best + 0.2 * (worst - best) + 1e-9


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(("x", "y", "z", "w")), costs, min_size=1), st.integers(0, 200), st.floats(0, 1))
def test_a_mix_is_as_fast_as_it_has_to_be(
    table: dict[str, dict[str, tuple[int, float]]], more: int, share: float
) -> None:
    """The smallest types are the fastest here: so there is always a mix that is fast enough."""
    least = sum(min(size for size, _ in kinds.values()) for kinds in table.values())
    times = {name: {kind: float(size) for kind, (size, _) in kinds.items()} for name, kinds in table.items()}
    free = choose(table, least + more)
    pace = Pace(times, least + share * (sum(table[n][k][0] for n, k in free.items()) - least) + 1e-9)
    chosen = choose(table, least + more, pace)
    assert pace.of(chosen) <= pace.limit
    assert sum(table[name][kind][0] for name, kind in chosen.items()) <= least + more


def test_time_is_taken_from_where_it_costs_least() -> None:
    slow_and_good = {"slow": (10, 0.1), "fast": (10, 0.2)}
    table = {"much": {"slow": (10, 0.1), "fast": (10, 0.9)}, "little": slow_and_good, "looked up": slow_and_good}
    times = {name: {"slow": 3.0, "fast": 1.0} for name in ("much", "little")}
    assert choose(table, 30) == {"much": "slow", "little": "slow", "looked up": "slow"}
    found = choose(table, 30, Pace(times, 4.0))
    assert found == {"much": "slow", "little": "fast", "looked up": "slow"}


def test_where_no_mix_is_fast_enough_the_fastest_is_taken() -> None:
    table = {"x": {"small": (10, 1.0), "large": (20, 0.0)}}
    assert choose(table, 20, Pace({"x": {"small": 3.0, "large": 2.0}}, 1.0)) == {"x": "large"}
    assert choose(table, 20, Pace({"x": {"small": 2.0, "large": 3.0}}, 1.0)) == {"x": "small"}


def test_a_budget_that_nothing_meets_names_the_least_that_would() -> None:
    with pytest.raises(UserError, match="the smallest types need 30 bytes, 29 are allowed"):
        choose({"x": {"a": (10, 1.0), "b": (20, 0.5)}, "y": {"a": (20, 1.0)}}, 29)


def test_the_hull_leaves_out_what_another_type_beats() -> None:
    kinds = {"small": (10, 1.0), "worse": (12, 1.0), "mid": (20, 0.9), "large": (30, 0.1)}
    assert [name for name, _, _ in hull(kinds)] == ["small", "large"]


@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL", "Q4_1", "int4-b32"])
def test_compensated_rounding_changes_the_output_less(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 96, generator=generator) @ torch.randn(96, 96, generator=generator)
    weight = torch.randn(48, 96, generator=generator)
    gram = inputs.T @ inputs

    def error(stored: torch.Tensor) -> float:
        return float(((stored - weight) @ inputs.T).square().sum())

    moved, grid = compensate(weight, kind, inverse(gram))
    plain = TensorGrid.fitted(weight, kind, gram.diagonal())
    assert error(grid.fake_quantized(moved)) < 0.8 * error(plain.fake_quantized(weight))


def test_inputs_that_are_zero_are_refused() -> None:
    with pytest.raises(UserError, match="zero or not finite"):
        compensate(torch.ones(4, 32), "Q4_0", inverse(torch.zeros(32, 32)))


def test_fisher_information_foretells_the_divergence_of_a_small_change(tmp_path: Path) -> None:
    tiny_llama(tmp_path)
    rows = [np.random.default_rng(i).integers(3, 400, 64).tolist() for i in range(24)]
    found = collect_fisher(load_model(tmp_path, dtype=torch.float32).eval(), rows, SilentProgress())
    name = "model.layers.1.mlp.down_proj.weight"
    reference, model = (load_model(tmp_path, dtype=torch.float32).eval() for _ in range(2))
    weight = dict(model.named_parameters())[name]
    change = 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight += change
        logs = [[torch.log_softmax(m(torch.tensor([row])).logits[0], -1) for row in rows] for m in (reference, model)]
    kl = float(np.mean([float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(*logs, strict=True)]))
    expected = 0.5 * float((found.fisher[name] * change.square()).sum())
    assert 0.6 < expected / kl < 1.7


def test_options_skip_types_that_a_row_does_not_fit() -> None:
    weight = {"x": np.random.default_rng(0).standard_normal((4, 96)).astype(np.float32)}
    ones = {"x": np.ones((4, 96), np.float32)}
    table = options(weight, ones, {"x": np.ones(96, np.float32)}, ("Q4_0", "Q8_0", "Q4_K"))
    assert table["x"].keys() == {"Q4_0", "Q8_0"}
    assert table["x"]["Q8_0"][1] < table["x"]["Q4_0"][1]
    assert table["x"]["Q4_0"][0] == 224  # 4 x 3 blocks of 18 bytes, padded to 32 as in the file
