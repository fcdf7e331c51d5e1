"""`task: classification`: encoders with a sequence-classification head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distill2edge.errors import Problem
from distill2edge.models.kinds import CLASSIFIER, ENCODER, Kind
from distill2edge.tasks.features import DYNAMIC_INT8, HIDDEN_STATES, PRETRAINING, TRIMMED_VOCABULARY
from distill2edge.tasks.task import Task

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe


class Classification(Task):
    """An encoder learns to say which of some classes a text is of."""

    name = "classification"
    wanted = (
        "task: classification, with data.choices (the labels), data.template: plain, signal: {kind: labels} and "
        "bench: {workloads: [task]}"
    )
    example = "an encoder, such as a BERT"
    signals = ("labels", "gold")
    templates = ("plain",)
    supports = frozenset({DYNAMIC_INT8, HIDDEN_STATES, PRETRAINING, TRIMMED_VOCABULARY})
    kinds = (CLASSIFIER, ENCODER)
    predicts_tokens = False

    def problems(self, recipe: Recipe) -> Iterator[Problem]:
        """As `Task.problems`."""
        if recipe.data.choices is None:
            yield Problem(("data",), "task classification needs the label set", "set data.choices")

    def learns(self, kind: Kind) -> bool:
        """As `Task.learns`: a head can be put on any body; one that takes none says so when it is loaded."""
        return True

    def exported(self, kind: Kind) -> Kind:
        """As `Task.exported`: a head comes later, whatever the configuration names."""
        return CLASSIFIER
