"""`task: classification`: encoders with a sequence-classification head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distill2edge.errors import Problem
from distill2edge.models.kinds import CLASSIFIER, ENCODER, Kind
from distill2edge.tasks.features import (
    ASKED_TEACHER,
    CALIBRATION,
    CLASS_WEIGHTS,
    DYNAMIC_INT8,
    FIT,
    HIDDEN_STATES,
    KL_MIXES,
    MIXES,
    ORDER,
    ORDERED_LOSS,
    PAIRS,
    PRETRAINING,
    QUANTIZATION_AWARE,
    RARE_TOKENS,
    SETS,
    TRIMMED_VOCABULARY,
)
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
    supports = frozenset({
        ASKED_TEACHER, CALIBRATION, CLASS_WEIGHTS, DYNAMIC_INT8, FIT, HIDDEN_STATES, KL_MIXES, MIXES, ORDER,
        ORDERED_LOSS, PAIRS, PRETRAINING, QUANTIZATION_AWARE, RARE_TOKENS, SETS, TRIMMED_VOCABULARY,
    })  # fmt: skip
    kinds = (CLASSIFIER, ENCODER)
    predicts_tokens = False

    def problems(self, recipe: Recipe) -> Iterator[Problem]:
        """As `Task.problems`."""
        choices, ask = recipe.data.choices, recipe.teacher.ask
        if choices is None:
            yield Problem(("data",), "task classification needs the label set", "set data.choices")
        for path, loss in recipe.losses:
            if any(loss.weighed("steps")) and not recipe.data.ordered:
                what = "emd counts steps between choices, and nothing says that data.choices are in an order"
                yield Problem(path, what, "set data.ordered: true, or take emd out")
        if ask is None:
            return
        if choices is not None and ask.answers is not None and len(ask.answers) != len(choices):
            what = f"{len(ask.answers)} answers for {len(choices)} choices"
            yield Problem(("teacher", "ask", "answers"), what, "name one for each of data.choices, in their order")
        if not hasattr(recipe.student.init, "model"):
            what = "a language model that is asked has no layers that a classifier is made of"
            yield Problem(("student", "init"), what, "name an encoder: student.init: {model: ..., layers: 3}")
        for path, loss in recipe.losses:
            if loss.needs_layers and recipe.student.assistant is None:
                what = "a language model that is asked has no layers to compare with"
                fix = f"take hidden and attention out of {'.'.join(path)}; or teach a student.assistant first"
                yield Problem(path, what, fix)

    def teaches(self, kind: Kind, recipe: Recipe) -> bool:
        """As `Task.teaches`: what is asked must write."""
        return kind.writes if recipe.teacher.ask is not None else self.learns(kind)

    def learns(self, kind: Kind) -> bool:
        """As `Task.learns`: a head can be put on any body; one that takes none says so when it is loaded."""
        return True

    def exported(self, kind: Kind, *, asked: bool = False) -> Kind:
        """As `Task.exported`: a head comes later, whatever the configuration names; what is asked has none."""
        return kind if asked else CLASSIFIER
