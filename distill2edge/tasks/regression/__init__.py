"""`task: regression`: encoders that say a number of a text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distill2edge.errors import Problem
from distill2edge.models.kinds import ENCODER, REGRESSOR, Kind
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.tasks.features import (
    CALIBRATION,
    DYNAMIC_INT8,
    FIT,
    HIDDEN_STATES,
    MIXES,
    NUMBERS,
    PAIRS,
    PRETRAINING,
    QUANTIZATION_AWARE,
    RARE_TOKENS,
    TRIMMED_VOCABULARY,
)
from distill2edge.tasks.task import Task

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe

_LOSS = "{mse: 0.5, teacher_mse: 0.5}"
_FEWEST = 10
"""Held-out rows without which a rank correlation says nothing."""


class Regression(Task):
    """An encoder learns the number that a text has."""

    name = "regression"
    wanted = (
        "task: regression, with data.template: plain, signal: {kind: numbers}, distill.loss: {mse: 0.5, "
        "teacher_mse: 0.5} and bench: {workloads: [task]}"
    )
    example = "an encoder, such as bundled:all-minilm-l6-v2"
    signals = ("numbers", "gold")
    templates = ("plain",)
    supports = frozenset({
        CALIBRATION, DYNAMIC_INT8, FIT, HIDDEN_STATES, MIXES, NUMBERS, PAIRS, PRETRAINING, QUANTIZATION_AWARE,
        RARE_TOKENS, TRIMMED_VOCABULARY,
    })  # fmt: skip
    kinds = (REGRESSOR, ENCODER)
    predicts_tokens = False
    numeric = True
    gold_term = "mse"

    def problems(self, recipe: Recipe) -> Iterator[Problem]:
        """As `Task.problems`."""
        data = recipe.data
        if data.choices is not None:
            yield Problem(("data", "choices"), "a number is no choice", "leave data.choices out")
        if data.response is None:
            yield Problem(("data", "response"), "task regression is scored by the data's numbers", "name their field")
        for path, loss in recipe.losses:
            if any(loss.weighed("gold", "distribution")):
                key = ".".join(path)
                what = f"a regressor predicts no tokens and no labels: {key} compares its numbers"
                yield Problem(path, what, f"set {key}: {_LOSS}")
        if any(recipe.distill.loss.weighed("teacher_numbers")) and recipe.signal.kind != "numbers":
            what = f"distill.loss compares with the teacher's number, but signal.kind is {recipe.signal.kind!r}"
            yield Problem(("distill", "loss"), what, "use signal: {kind: numbers}, or distill.loss: {mse: 1}")
        if min(data.splits.test, recipe.verify.rows or data.splits.test) < _FEWEST:
            what = "the order of so few test rows says nothing"
            yield Problem(("data", "splits", "test"), what, f"hold out {_FEWEST} rows or more, and as verify.rows")
        for index, text in enumerate(recipe.export):
            if parse_scheme(text).format == "gguf":
                what = f"{text}: llama.cpp has no head that gives one number"
                yield Problem(("export", index), what, "use ONNX")

    def exported(self, kind: Kind, *, asked: bool = False) -> Kind:
        """As `Task.exported`: an encoder gets its head later."""
        return REGRESSOR
