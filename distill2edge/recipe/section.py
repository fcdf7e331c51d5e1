"""What every part of a recipe is made of."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

LATER = "later"
"""Marks a field that came after the first stores: at its default it is no part of a stage's key (see `canonical`)."""


class Section(BaseModel):
    """A frozen part of a recipe that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
