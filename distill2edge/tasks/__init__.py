"""The tasks of a recipe: one folder each, with a class that knows no torch and the work behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distill2edge.tasks.causal_lm import CausalLM
from distill2edge.tasks.classification import Classification
from distill2edge.tasks.embedding import Embedding
from distill2edge.tasks.regression import Regression
from distill2edge.tasks.seq2seq import Seq2Seq
from distill2edge.tasks.task import Task
from distill2edge.tasks.token_classification import TokenClassification

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe

TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (CausalLM(), Seq2Seq(), Classification(), Embedding(), Regression(), TokenClassification())
}


def task_of(recipe: Recipe) -> Task:
    """The task of a recipe."""
    return TASKS[recipe.task].of(recipe)
