"""A student that learns from a random sample of the teacher's distribution, from rows to merged weights, offline."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_recipe

from distill2edge import run
from distill2edge.distill.logit_cache import SignalReader

pytestmark = pytest.mark.slow


def test_a_recipe_of_a_sample_runs_and_another_seed_draws_anew(tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    keys = set()
    for seed in (0, 1):
        changes = {"signal": {"kind": "logits", "sample": 24, "temperature": 1.0}, "seed": seed}
        done = run(
            tmp_path / "tiny.yaml", changes, upto="merge", store=tmp_path / "store", out=tmp_path / "out", quiet=True
        )
        signal, trained = done.of("signal")["signal"], done.of("distill")["distill"]
        assert signal.facts["sample"] == SignalReader(signal.path).sample == 24
        assert trained.facts["steps"] > 0
        keys.add(signal.path)
    assert len(keys) == 2
