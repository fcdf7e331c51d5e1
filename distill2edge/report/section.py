"""One section of a report: its name, and what stands in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distill2edge.report.blocks import Block


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        anchor: its address on the page (`#gates`).
        name: in the navigation, and on the model card.
        heading: over it.
        blocks: what of a report.json stands in it, in order; with nothing, the section is left out.
        on_card: whether its first table or list of facts stands on the model card too.
    """

    anchor: str
    name: str
    heading: str
    blocks: Callable[[dict[str, Any]], list[Block]]
    on_card: bool = False
