"""What a task is. Its light half says what a recipe of it may ask for, and knows no torch; the other does the work.

A task is one folder: its class, and `work.py` beside it with what the stages call.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, cast

from distill2edge.errors import Problem
from distill2edge.models.kinds import Kind
from distill2edge.tasks.features import Feature

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe
    from distill2edge.tasks.work import Work


class Task(ABC):
    """One task of a recipe.

    Attributes:
        name: as `task:` names it.
        wanted: what a recipe of it says, for messages.
        example: of a model that it is for, likewise.
        signals: of the teacher, the usual one first.
        templates: of the data.
        supports: what a recipe of it may ask for.
        kinds: of model that it is for: those of its students.
        predicts_tokens: whether its student gives a distribution over the vocabulary at each position; else one answer
            for the whole text.
        numeric: whether a response is a number.
        tagged: whether rows are words with tags, or texts with entities.
        gold_term: of the loss: what a student learns by without a teacher.
        teacher_key: what the key of its teacher says of it, where it is kept otherwise than for other tasks.
        key: what its stages' keys say of it. The first task has none: its artifacts are older than the others.
    """

    name: ClassVar[str]
    wanted: ClassVar[str]
    example: ClassVar[str]
    signals: ClassVar[tuple[str, ...]]
    templates: ClassVar[tuple[str, ...]]
    supports: ClassVar[frozenset[Feature]]
    kinds: ClassVar[tuple[Kind, ...]]
    predicts_tokens: ClassVar[bool]
    numeric: ClassVar[bool] = False
    tagged: ClassVar[bool] = False
    gold_term: ClassVar[str] = "ce"
    teacher_key: ClassVar[Mapping[str, str]] = {}

    @property
    def key(self) -> dict[str, str]:
        """See the class."""
        return {"task": self.name}

    def problems(self, recipe: Recipe) -> Iterator[Problem]:
        """What this task alone asks of a recipe."""
        return iter(())

    def teaches(self, kind: Kind, recipe: Recipe) -> bool:
        """Whether a model of this kind can be its teacher."""
        return self.learns(kind)

    def learns(self, kind: Kind) -> bool:
        """Whether its student can start from a model of this kind."""
        return kind in self.kinds

    def exported(self, kind: Kind, *, asked: bool = False) -> Kind:
        """The kind of its files, made of a model of this kind; `asked`: of a teacher that answers in its own words."""
        return kind

    def takes(self, recipe: Recipe) -> bool:
        """Of a form of a task: whether it is the one that a recipe asks for."""
        return True

    @cached_property
    def work(self) -> Work:
        """Its other half, imported now."""
        return cast("Work", import_module(f"{type(self).__module__}.work").WORK)
