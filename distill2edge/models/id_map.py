"""The ids beside a model whose vocabulary was trimmed: which token of the full vocabulary each was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill2edge.util.files import read_json

MAP_FILE = "vocabulary.json"


@dataclass(frozen=True)
class IdMap:
    """Which id of the full vocabulary each id of the trimmed one was.

    Attributes:
        new_to_old: [trimmed size] int64, ascending.
        old_size: rows of the embedding before.
        full: hash of the full vocabulary's token -> id; None where it is not kept (a model that predicts no tokens).
    """

    new_to_old: np.ndarray
    old_size: int
    full: str | None = None

    @property
    def old_to_new(self) -> np.ndarray:
        """[old size] int64; -1 for a token that was dropped."""
        inverse = np.full(self.old_size, -1, dtype=np.int64)
        inverse[self.new_to_old] = np.arange(len(self.new_to_old))
        return inverse

    def to_old(self, ids: Sequence[int]) -> list[int]:
        """Ids of the full vocabulary of trimmed ones: for a teacher that keeps it."""
        return [int(index) for index in self.new_to_old[np.asarray(ids, dtype=np.int64)]] if len(ids) else []


def read_map(model_dir: Path) -> IdMap | None:
    """The map of ids beside a trimmed model; None where its vocabulary was kept."""
    path = Path(model_dir) / MAP_FILE
    if not path.is_file():
        return None
    facts = read_json(path)
    return IdMap(np.asarray(facts["new_to_old"], dtype=np.int64), int(facts["old_size"]), facts.get("full"))
