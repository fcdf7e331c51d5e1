"""The part of a recipe that a stage's key is made of: plain values, the same for the same meaning."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distill2edge.recipe.section import LATER, Section


def canonical(section: BaseModel | None, exclude: set[str] | None = None) -> Any:
    """A section as JSON values, without fields that came later and stand at their default.

    So a new field (`LATER` in its annotation) changes the key of those recipes only that use it, and what a store
    made before stays valid. Code of the user's own stands in it by its hash.

    Args:
        section: a recipe section, or None.
        exclude: names of its own fields to leave out.
    """
    if section is None:
        return None
    return _pruned(section, section.model_dump(mode="json", by_alias=True, exclude=exclude))


def _pruned(value: Any, dumped: Any) -> Any:
    """What was dumped of a value, without the unused fields of the sections in it."""
    if isinstance(value, BaseModel):
        kept = {}
        for name, field in type(value).model_fields.items():
            key, inner = field.serialization_alias or field.alias or name, getattr(value, name)
            if key in dumped and not _unused(field, inner):
                kept[key] = _pruned(inner, dumped[key])
        return kept | (value.own_code() if isinstance(value, Section) else {})
    if isinstance(value, list | tuple):
        return [_pruned(inner, part) for inner, part in zip(value, dumped, strict=True)]
    return dumped


def _unused(field: FieldInfo, value: Any) -> bool:
    return LATER in field.metadata and bool(value == field.get_default(call_default_factory=True))
