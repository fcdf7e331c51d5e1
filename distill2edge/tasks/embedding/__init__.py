"""`task: embedding`: encoders that make one vector of a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from distill2edge.errors import Problem
from distill2edge.models.kinds import EMBEDDER, ENCODER, Kind
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.tasks.features import (
    CALIBRATION,
    DIMENSIONS,
    DYNAMIC_INT8,
    EMBEDDINGS,
    GOLD_PAIRS,
    HIDDEN_STATES,
    MIXES,
    POOLING,
    QUANTIZATION_AWARE,
    RARE_TOKENS,
    TOKEN_TABLE,
    TRIMMED_VOCABULARY,
)
from distill2edge.tasks.task import Task

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe


COUNT = 10
"""Neighbours of a text that its score is about."""


class Embedding(Task):
    """An encoder learns where its teacher puts a text among others."""

    name = "embedding"
    wanted = (
        "task: embedding, with data.template: plain, signal: {kind: embeddings}, distill.loss: {embedding: 1} "
        "and bench: {workloads: [task]}"
    )
    example = "an encoder, such as bundled:all-minilm-l6-v2"
    signals = ("embeddings",)
    templates = ("plain",)
    supports = frozenset(
        {
            CALIBRATION, DIMENSIONS, DYNAMIC_INT8, EMBEDDINGS, GOLD_PAIRS, HIDDEN_STATES, MIXES, POOLING,
            QUANTIZATION_AWARE, RARE_TOKENS, TOKEN_TABLE, TRIMMED_VOCABULARY,
        }
    )  # fmt: skip
    kinds = (EMBEDDER, ENCODER)
    predicts_tokens = False
    teacher_key: ClassVar[Mapping[str, str]] = {"task": "embedding"}

    def problems(self, recipe: Recipe) -> Iterator[Problem]:
        """As `Task.problems`."""
        if recipe.data.choices is not None:
            yield Problem(("data", "choices"), "an embedding is no choice", "leave data.choices out")
        for path, loss in recipe.losses:
            if any(loss.weighed("gold", "distribution")):
                key = ".".join(path)
                what = f"an embedder predicts no tokens and no labels: {key} compares its vectors"
                yield Problem(path, what, f"set {key}: {{embedding: 1}}")
        if min(recipe.data.splits.test, recipe.verify.rows or recipe.data.splits.test) <= COUNT:
            what = f"a text's {COUNT} nearest neighbours are looked for among the other test rows"
            yield Problem(("data", "splits", "test"), what, f"hold out more than {COUNT} rows, and as verify.rows")
        if recipe.teacher.pooling == "max":
            for index, text in enumerate(recipe.export):
                if text.startswith("gguf"):
                    what = f"{text}: llama.cpp does not pool by the greatest numbers"
                    yield Problem(("export", index), what, "leave GGUF out")
        if getattr(recipe.student.init, "is_table", False):
            yield from _table(recipe)
        if recipe.distill.control:
            what = "task embedding learns from the teacher alone: without it nothing is left"
            yield Problem(("distill", "control"), what, "leave it out")
        if recipe.student.dimensions and not any(recipe.distill.loss.weighed("similarities")):
            what = "student.dimensions: only a loss on similarities trains a part of the vector to serve alone"
            yield Problem(("student", "dimensions"), what, "set distill.loss: {embedding: 1, similarity: 1}")

    def exported(self, kind: Kind, *, asked: bool = False) -> Kind:
        """As `Task.exported`: an encoder's configuration says how it pools once it is a teacher or a student."""
        return EMBEDDER


def _table(recipe: Recipe) -> Iterator[Problem]:
    """What a table of token vectors does not have."""
    what = "a table of token vectors has no {}"
    section = recipe.distill.quantization_aware
    on_grid = None if section is None else section.lora
    for key, lora in (("student", recipe.student.lora), ("distill.quantization_aware", on_grid)):
        if lora is not None:
            path = (*key.split("."), "lora")
            yield Problem(path, what.format("matrices for adapters"), f"set {key}.lora: null")
    if recipe.quantize.calibration != "none":
        where = ("quantize", "calibration")
        yield Problem(where, what.format("products whose inputs could be measured"), "set quantize.calibration: none")
    for index, text in enumerate(recipe.export):
        if parse_scheme(text).mix:
            yield Problem(("export", index), what.format("second matrix to mix types with"), "name a stock scheme")
    for place, loss in recipe.losses:
        if loss.needs_layers:
            yield Problem(place, what.format("layers to compare"), "take hidden and attention out")
