"""The tasks of a recipe: one folder each, with a class that knows no torch and the work behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distill2edge.tasks.causal_lm import CausalLM
from distill2edge.tasks.classification import Classification
from distill2edge.tasks.embedding import Embedding
from distill2edge.tasks.multi_label import MultiLabels
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

FORMS: Mapping[str, tuple[Task, ...]] = {Classification.name: (MultiLabels(),)}
"""Of a task, those that the data of a recipe makes of it."""


def task_of(recipe: Recipe) -> Task:
    """The task of a recipe."""
    forms = (form for form in FORMS.get(recipe.task, ()) if form.takes(recipe))
    return next(forms, TASKS[recipe.task])
