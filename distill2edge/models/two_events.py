"""A label that is told apart from the others is two events: the text has it not, or has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

THRESHOLD = 0.5
"""Probability above which a text has a label, where none was chosen for it."""
FIELD = "label_thresholds"
"""The field of a `config.json` that has those which were chosen."""


def thresholds_in(config: Mapping[str, Any]) -> tuple[float, ...]:
    """Those of a `config.json`, one for each label; empty where none were chosen."""
    found = config.get(FIELD) or ()
    right = isinstance(found, list) and all(isinstance(each, float) and 0 < each < 1 for each in found)
    return tuple(found) if right and len(found) == len(config.get("id2label") or ()) else ()


def two_events(logits: Any) -> np.ndarray:
    """Logits [..., C] of labels, each a sigmoid's -> [..., C, 2] of the two events, a softmax's."""
    found = np.asarray(logits, dtype=np.float32)
    return np.stack([np.zeros_like(found), found], -1)


def probabilities(logits: Any) -> np.ndarray:
    """[..., C] float64: of each label, by its own sigmoid; no logit overflows."""
    found = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(found))
    return np.asarray(np.where(found >= 0, 1 / (1 + small), small / (1 + small)))
