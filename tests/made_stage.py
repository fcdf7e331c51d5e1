"""A stage without a recipe, for tests of what runs stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distill2edge.pipeline.stage_files import EVERYTHING, Files


@dataclass(frozen=True)
class MadeStage:
    """As `pipeline.Stage`."""

    name: str
    write: Callable[..., dict[str, Any]]
    section: Any = None
    parents: tuple[str, ...] = ()
    seed: int = 0
    version: int = 1
    files: Files = EVERYTHING

    @property
    def kind(self) -> str:
        """The first word of its name."""
        return self.name.split(" ")[0]
