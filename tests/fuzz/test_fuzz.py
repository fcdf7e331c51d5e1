"""Hostile and broken input of every kind: accepted or refused with a reason, never a traceback, a hang, much memory."""

from __future__ import annotations

import pytest

from fuzz import harness

SLICE = 60  # cases of each kind in the fast suite
GROWN_MB = 500.0


@pytest.mark.parametrize("kind", harness.kinds())
def test_a_seeded_slice_holds(kind: str) -> None:
    _holds(harness.run(kind, min(SLICE, harness.count_of(kind)), seed=1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", harness.kinds())
def test_the_full_count_holds(kind: str) -> None:
    _holds(harness.run(kind, harness.count_of(kind), seed=0))


def _holds(summary: harness.Summary) -> None:
    assert summary.tracebacks == []
    assert summary.hangs == []
    assert summary.grown_mb < GROWN_MB
    assert summary.accepted + summary.refused > 0
