"""What differs between the tasks of a recipe, one module each, behind `base.Task`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe
    from distill2edge.tasks.task import Task

_MODULES = {"causal-lm": "causal_lm", "seq2seq": "seq2seq", "classification": "classification"}


def task_of(recipe: Recipe) -> Task:
    """The module of a recipe's task, imported now."""
    return cast("Task", import_module(f"distill2edge.tasks.{_MODULES[recipe.task]}"))
