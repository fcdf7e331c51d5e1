"""Pairs of texts with a number that people gave: how alike the two are."""

from __future__ import annotations

from pydantic import Field

from distill2edge.recipe.paths import PathText
from distill2edge.recipe.section import Section


class GoldPairs(Section):
    """Pairs of texts that people scored by how alike they are; a model's cosines are held against the scores."""

    source: PathText = Field(description="as data.source")
    config: str | None = Field(None, description="configuration name of a hub data set")
    revision: str | None = Field(None, description="commit, tag or branch of a hub data set; null: its main branch")
    split: str | None = Field(None, description="split to read; null reads all that exist")
    filter: str | None = Field(None, description="Jinja expression over a row; rows for which it is false are left out")
    first: str = Field("{{ first }}", description="Jinja template of one text over a row's fields")
    second: str = Field("{{ second }}", description="Jinja template of the other")
    score: str = Field("{{ score }}", description="Jinja template of the number; more is more alike, in any unit")
    rows: int | None = Field(None, ge=3, description="pairs to take, by a hash of their texts; null takes all")
