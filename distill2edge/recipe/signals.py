"""What a student learns from a teacher: one section for each kind of signal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, get_args

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.ranges import SamplingTemperature, Temperature
from distill2edge.recipe.section import LATER, Section
from distill2edge.recipe.verifiers import VerifierSpec

_TOP_K = _SAMPLE = 64

FORM = {"top_k", "mass", "sample"}
"""Of a signal of logits: what is kept of a position."""


class LogitsSignal(Section):
    """Top-k log-probabilities and the mass of the tail, or a random sample, at each supervised position."""

    kind: Literal["logits"] = "logits"
    top_k: int = Field(_TOP_K, ge=1, le=4096, description="tokens kept at each position, and one mass for all others")
    mass: Annotated[float | None, LATER] = Field(
        None,
        gt=0,
        lt=1,
        description="keep only as many of the top k as hold this much of the probability, in 8 bits each; null: all k",
    )
    sample: Annotated[int | None, LATER] = Field(
        None,
        ge=2,
        le=4096,
        description="N: in place of the top k keep at most N tokens, drawn so that the gradient of the forward KL has "
        "no bias: those of about 1/N and more with their own probability, and of the others some that stand for about "
        "1/N each. Fewer bytes, and it teaches more; no other divergence can be computed. null: the top k. A recipe "
        "that names none of top_k, mass and sample has sample: 64 where its losses can be computed of it",
    )
    temperature: Temperature = 2.0
    align: Annotated[Literal["none", "vocabulary"], LATER] = Field(
        "none",
        description="of a student whose tokenizer is another. none: refused; vocabulary: the teacher reads its own "
        "tokens of the same text, and where both have a border its probabilities go to the student's tokens of the "
        "same spelling",
    )

    def problems(self) -> Iterator[Problem]:
        """One form, which the other keys are of."""
        if self.sample is None:
            if self.mass is not None and self.align != "none":
                what = "signal.mass keeps tokens of the teacher's own, and signal.align makes them the student's"
                yield Problem(("mass",), what, "leave one of the two out")
            return
        if self.align != "none":
            what = "signal.sample draws the teacher's own tokens, and signal.align makes them the student's"
            yield Problem(("sample",), what, "leave one of the two out")
        for name, given in (("mass", self.mass is not None), ("top_k", self.top_k != _TOP_K)):
            if given:
                yield Problem((name,), f"signal.sample keeps no top k for signal.{name}", f"leave {name} or sample out")

    @property
    def formless(self) -> bool:
        """Whether who wrote it named no form, whatever form it has got since."""
        return self.model_fields_set.isdisjoint(FORM)

    @property
    def as_sample(self) -> LogitsSignal:
        """The same in the form that a recipe gets which names none; still formless, so that an edit decides anew."""
        found = self.model_copy(update={"sample": _SAMPLE})
        found.model_fields_set.discard("sample")
        return found

    @property
    def compact(self) -> bool:
        """Whether it is kept as `distill.compact_signal` codes it."""
        return self.mass is not None or self.sample is not None

    @property
    def bytes_per_position(self) -> float:
        """About what a position takes on disk, of 50,000 tokens and without the names of the rows."""
        kept = self.sample or self.top_k
        if not self.compact:
            return 6 * kept + 4
        # Ids of about 12 bits, a flag or a level each. Measured: a sample at T = 1 keeps half as many, at 2 nearly N.
        if self.sample is None:
            return 6 + 2.5 * kept
        return 6 + 1.75 * kept * min(1.0, self.temperature / 2)


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
