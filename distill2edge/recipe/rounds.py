"""The section of a recipe whose student learns from its own text."""

from __future__ import annotations

from pydantic import Field

from distill2edge.recipe.section import Section


class Rounds(Section):
    """The student improves on what it wrote itself: write, verify, train, and again."""

    count: int = Field(3, ge=1, le=20, description="rounds; each starts from the model of the one before")
    unverified: bool = Field(True, description="also the arm that trains on everything it wrote, to compare")
