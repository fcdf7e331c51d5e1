"""Which of the teacher's own files a student is held against: pure, over the entries and gates of `verify.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

FAITHFUL = 0.99
"""A teacher's file that keeps this share of the teacher's score is the teacher, as a user sees it."""


def quality_floor(gates: Iterable[Mapping[str, Any]]) -> float | None:
    """What the recipe asks every student file to retain; None where it asks nothing."""
    floors = [gate["target"] for gate in gates if "retained" in str(gate.get("name")) and gate.get("op") == ">="]
    return max(floors, default=None)


def is_teacher_baseline(entry: Mapping[str, Any], floor: float | None) -> bool:
    """Whether a model of the teacher is good enough to be compared with: one that is cheap because it is bad is no
    baseline.

    A file must keep what the student's files must. A floor at the teacher's own score or above it says how much better
    a student has to be; no file of the teacher can meet that, so of those `FAITHFUL` is asked.

    Args:
        entry: of verify.json.
        floor: `quality_floor`.
    """
    if entry.get("role") != "teacher" or entry.get("error"):
        return False
    if entry["id"] == "teacher" or floor is None:
        return True
    retained = (entry.get("retained") or {}).get("value")
    return retained is not None and retained >= min(floor, FAITHFUL)
