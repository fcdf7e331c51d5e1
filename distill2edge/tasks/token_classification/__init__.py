"""`task: token-classification`: encoders that find entities in a text: names, dates, what must not be shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from distill2edge.errors import Problem
from distill2edge.models.kinds import ENCODER, TAGGER, Kind
from distill2edge.models.tags import TagSet
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.tasks.features import (
    CALIBRATION,
    DYNAMIC_INT8,
    ENTITIES,
    FIT,
    HIDDEN_STATES,
    QUANTIZATION_AWARE,
    RARE_TOKENS,
    TRIMMED_VOCABULARY,
)
from distill2edge.tasks.task import Task

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe


class TokenClassification(Task):
    """An encoder learns the tag of each word of a text."""

    name = "token-classification"
    wanted = (
        "task: token-classification, with data.choices (the types of entities, or the tags), data.template: plain, "
        "signal: {kind: labels} and bench: {workloads: [task]}"
    )
    example = "an encoder, such as bundled:all-minilm-l6-v2"
    signals = ("labels", "gold")
    templates = ("plain",)
    supports = frozenset({
        CALIBRATION, DYNAMIC_INT8, ENTITIES, FIT, HIDDEN_STATES, QUANTIZATION_AWARE, RARE_TOKENS, TRIMMED_VOCABULARY,
    })  # fmt: skip
    kinds = (TAGGER, ENCODER)
    predicts_tokens = False
    tagged = True

    def problems(self, recipe: Recipe) -> Iterator[Problem]:
        """As `Task.problems`."""
        data = recipe.data
        if data.choices is None:
            what, fix = "task token-classification needs the types of entities", "set data.choices: [PERSON, CITY]"
            yield Problem(("data",), what, fix)
        else:
            try:
                TagSet(data.choices)
            except ValueError as error:
                fix = "name the types alone ([PERSON, CITY]), or all tags in the head's order ([O, B-PERSON, ...])"
                yield Problem(("data", "choices"), str(error), fix)
        fields = type(data).model_fields
        for key in ("prompt", "response"):
            value = getattr(data, key)
            if value is not None and value != fields[key].default:
                what = f"rows of task token-classification are words and tags, and no template makes them: {key}"
                yield Problem(("data", key), what, "name their fields: data.entities: {tokens: ..., tags: ...}")
        for index, text in enumerate(recipe.export):
            if parse_scheme(text).format == "gguf":
                what = f"{text}: llama.cpp has no head that gives each token a tag"
                yield Problem(("export", index), what, "use ONNX")

    def exported(self, kind: Kind, *, asked: bool = False) -> Kind:
        """As `Task.exported`: an encoder gets its head later."""
        return TAGGER
