"""What every part of a recipe is made of."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from distill2edge.errors import Problem

LATER = "later"
"""Marks a field that came after the first stores: at its default it is no part of a stage's key (see `canonical`)."""

COLLECT = "collect"
"""Of a validation's context: sections are built although they don't hold together; `problems_of` says where."""


class Incoherent(ValueError):
    """Keys of one section that contradict each other, all of them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class Section(BaseModel):
    """A frozen part of a recipe that refuses unknown keys, and keys that contradict each other."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    hint: ClassVar[str] = ""
    """What else may be meant by an unknown key."""

    @classmethod
    def known_keys(cls) -> list[str]:
        """Its keys, as a recipe writes them."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @classmethod
    def numeric_keys(cls) -> set[str]:
        """Those of its keys that take a number, and neither text nor truth values."""
        return {name for name, field in cls.model_fields.items() if _is_number(field.annotation)}  # type: ignore[arg-type]

    def own_code(self) -> dict[str, Any]:
        """Its keys whose meaning is code of the user's own, each with what a stage's key holds of it."""
        return {}

    def own_files(self) -> tuple[Path, ...]:
        """The files of that code."""
        return ()

    def problems(self) -> Iterator[Problem]:
        """What the keys of this section ask of each other and do not give; paths start at the section."""
        return iter(())

    @model_validator(mode="after")
    def _holds_together(self, info: ValidationInfo) -> Self:
        if not (info.context or {}).get(COLLECT) and (found := list(self.problems())):
            raise Incoherent(found)
        return self

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        # Pydantic reads true as 1, and so would train one epoch of `epochs: true`; the word itself is refused.
        if not isinstance(values, dict):
            return values
        numeric = cls.numeric_keys()
        return {
            key: str(value).lower() if isinstance(value, bool) and key in numeric else value
            for key, value in values.items()
        }


def problems_of(section: BaseModel, path: tuple[str | int, ...] = (), root: bool = True) -> Iterator[Problem]:
    """Every problem of a section and of those in it; paths start at the root.

    Args:
        root: False leaves out those of the section itself.
    """
    if isinstance(section, Section) and root:
        for problem in section.problems():
            yield Problem((*path, *problem.path), problem.what, problem.fix)
    for here, inner in _inner(section):
        yield from problems_of(inner, (*path, *here))


def files_of(section: BaseModel) -> list[Path]:
    """The files of the user's own code that a section and those in it use, each once."""
    found = dict.fromkeys(section.own_files() if isinstance(section, Section) else ())
    for _, inner in _inner(section):
        found |= dict.fromkeys(files_of(inner))
    return list(found)


def _inner(section: BaseModel) -> Iterator[tuple[tuple[str | int, ...], BaseModel]]:
    """The sections in a section, each with its path."""
    for name, info in type(section).model_fields.items():
        value, here = getattr(section, name), info.alias or name
        if isinstance(value, BaseModel):
            yield (here,), value
        elif isinstance(value, tuple):
            for index, item in enumerate(value):
                if isinstance(item, BaseModel):
                    yield (here, index), item


@cache
def _is_number(annotation: Any) -> bool:
    """Whether a field takes numbers, and neither text nor truth values."""
    types = _types(annotation)
    return bool(types & {int, float}) and not types & {bool, str, Any}


def _types(annotation: Any) -> set[Any]:
    found = {annotation}
    for part in get_args(annotation):
        found |= _types(part)
    return found
