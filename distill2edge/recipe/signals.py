"""What a student learns from a teacher: one section for each kind of signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.ranges import SamplingTemperature, Temperature
from distill2edge.recipe.section import LATER, Section
from distill2edge.recipe.verifiers import VerifierSpec


class LogitsSignal(Section):
    """Top-k log-probabilities and the mass of the tail, at each supervised position."""

    kind: Literal["logits"] = "logits"
    top_k: int = Field(64, ge=1, le=4096)
    temperature: Temperature = 2.0
    align: Annotated[Literal["none", "vocabulary"], LATER] = Field(
        "none",
        description="of a student whose tokenizer is another. none: refused; vocabulary: the teacher reads its own "
        "tokens of the same text, and where both have a border its probabilities go to the student's tokens of the "
        "same spelling",
    )


class TextSignal(Section):
    """Responses that the teacher writes."""

    kind: Literal["text"] = "text"
    max_new_tokens: int = Field(128, ge=1, le=2**20)
    temperature: SamplingTemperature = Field(0.0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    turns: Annotated[Literal["last", "all"], LATER] = Field(
        "last",
        description="turns of a conversation that the teacher writes: the last, which alone is trained; or every one "
        "that calls no tool, its own earlier answers before the later ones",
    )
    samples: Annotated[int, LATER] = Field(1, ge=1, le=256, description="responses to each prompt")
    verify: Annotated[tuple[VerifierSpec, ...], LATER] = Field(
        (),
        description="checks in this order; a response that one refuses is dropped, counted and explained",
        examples=[
            [{"kind": "exact"}],
            [{"kind": "numeric", "relative": 0.01}],
            [{"kind": "python", "file": "check.py"}],
            [{"kind": "json-schema", "file": "answer.schema.json"}],
            [{"kind": "regex", "pattern": "yes|no"}, {"kind": "majority"}],
            [{"kind": "likelihood", "min_mean_logprob": -2.0}, {"kind": "judge", "model": "owner/name"}],
        ],
    )

    def problems(self) -> Iterator[Problem]:
        """Samples that differ, and enough of them for a majority."""
        if self.samples > 1 and self.temperature == 0:
            yield Problem(
                ("temperature",), "samples of a greedy teacher are all alike", "set signal.temperature above 0"
            )
        if self.samples < 3 and any(spec.kind == "majority" for spec in self.verify):
            yield Problem(("samples",), "a majority needs at least three samples", "set signal.samples")


class LabelsSignal(Section):
    """Class logits of the whole text, for task classification; the loss compares them at the temperature."""

    kind: Literal["labels"] = "labels"
    temperature: Temperature = 2.0


class EmbeddingsSignal(Section):
    """The teacher's vector of the whole text, for task embedding."""

    kind: Literal["embeddings"] = "embeddings"


class NumbersSignal(Section):
    """The teacher's number of the whole text, for task regression."""

    kind: Literal["numbers"] = "numbers"


class GoldSignal(Section):
    """No teacher: the data's own responses (supervised fine-tuning; the control)."""

    kind: Literal["gold"] = "gold"


Signal = Annotated[
    LogitsSignal | TextSignal |
    LabelsSignal | EmbeddingsSignal | NumbersSignal | GoldSignal, Field(discriminator="kind")
]  # fmt: skip
SIGNALS: Mapping[str, type[Section]] = {
    section.model_fields["kind"].default: section for section in get_args(get_args(Signal)[0])
}
"""Each by its kind."""
