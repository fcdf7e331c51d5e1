"""`task: classification` with `data.multi`: encoders that say of each label whether a text has it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distill2edge.errors import Problem
from distill2edge.models.kinds import ENCODER, MULTI_LABEL, Kind
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.tasks.classification import Classification
from distill2edge.tasks.features import CALIBRATION, KL_MIXES, MIXES, ORDER, ORDERED_LOSS

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe


class MultiLabels(Classification):
    """An encoder learns which of some labels a text has: any number of them, or none."""

    name = "classification with data.multi: true"
    supports = Classification.supports - {CALIBRATION, KL_MIXES, MIXES, ORDER, ORDERED_LOSS}
    kinds = (MULTI_LABEL, ENCODER)

    @property
    def key(self) -> dict[str, str]:
        """As `Task.key`."""
        return {"task": "multi-label"}

    def problems(self, recipe: Recipe) -> Iterator[Problem]:
        """As `Task.problems`."""
        yield from super().problems(recipe)
        ask, where = recipe.teacher.ask, ("teacher", "ask")
        for index, text in enumerate(recipe.export):
            if parse_scheme(text).format == "gguf":
                what = f"{text}: a GGUF has no field that says that its labels do not exclude each other"
                yield Problem(("export", index), what, "use ONNX")
        if ask is None:
            return
        if recipe.teacher.url is None:
            what = "the likelihoods of answers exclude each other, so they are no probability of each label of a set"
            yield Problem(
                where, what, "ask an endpoint, whose answers are read as sets, or fit an encoder: teacher.fit"
            )
        if ask.logprobs == "require":
            what = "log-probabilities of a first token say nothing of the other labels of a set"
            yield Problem((*where, "logprobs"), what, "leave it out: answers are counted (teacher.ask.samples)")
        if ask.correction not in ("auto", "none"):
            what = "a correction is of likelihoods, and of a set answers are counted"
            yield Problem((*where, "correction"), what, "leave it out")
        if ask.shots:
            what = "examples with a set for each are not written by themselves"
            yield Problem((*where, "shots"), what, "write them into teacher.ask.prompt")

    def takes(self, recipe: Recipe) -> bool:
        """As `Task.takes`."""
        return recipe.data.multi

    def exported(self, kind: Kind, *, asked: bool = False) -> Kind:
        """As `Task.exported`."""
        return kind if asked else MULTI_LABEL
