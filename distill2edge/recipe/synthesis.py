"""Rows that the teacher makes: new instructions and their responses, or instructions for texts that people wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.ranges import SamplingTemperature, Similarity
from distill2edge.recipe.section import Section


class Writing(Section):
    """How a text is drawn."""

    max_new_tokens: int = Field(256, ge=1, le=2**20)
    temperature: SamplingTemperature = Field(0.7, description="0 is greedy")
    top_p: float = Field(0.95, gt=0, le=1)


class SelfInstruct(Section):
    """New instructions from examples (Self-Instruct, Wang 2022; Alpaca, Taori 2023); the data's rows are the seeds."""

    kind: Literal["self-instruct"] = "self-instruct"
    instructions: int = Field(ge=1, description="new instructions to keep")
    shown: int = Field(6, ge=1, le=32, description="examples in a request")
    of_own: int = Field(2, ge=0, description="of the examples shown, those that the teacher wrote before, where any")
    max_requests: int | None = Field(
        None, ge=1, description="stop after this many, however few were kept; null: 8 times the instructions"
    )
    batch: int = Field(32, ge=1, description="requests between two looks at what was kept")
    prompt: str = Field(
        "Write one new task for an assistant, different from those before. Write the task alone.",
        description="Jinja template of the request; the examples are earlier answers to it in the same conversation",
    )
    writing: Writing = Writing(max_new_tokens=96, temperature=0.9)  # type: ignore[call-arg]

    def problems(self) -> Iterator[Problem]:
        """Examples of people."""
        if self.of_own >= self.shown:
            yield Problem(("of_own",), "of_own must be below shown", "some of the examples must be the data's own")


class Evolve(Section):
    """Harder or rarer versions of the instructions there are (Evol-Instruct, Xu 2023)."""

    kind: Literal["evolve"] = "evolve"
    instructions: int = Field(ge=1, description="instructions to rewrite, those of earlier methods first")
    rounds: int = Field(1, ge=1, le=8, description="rewrite what a round kept again")
    operations: tuple[str, ...] = Field(
        (
            "Add one more requirement or constraint to it.",
            "Replace general words in it by more specific ones.",
            "Make it need one more step of reasoning.",
            "Turn it into a rarer task of the same field.",
        ),
        min_length=1,
        description="how it is rewritten; taken in turn",
    )
    prompt: str = Field(
        "Rewrite this task. {{ operation }} Write the new task alone, without its solution.\n\nTask: {{ task }}",
        description="Jinja template over `task` and `operation`",
    )
    writing: Writing = Writing(max_new_tokens=128, temperature=0.8)  # type: ignore[call-arg]


class Reverse(Section):
    """Instructions for texts that people wrote: the data's responses (backtranslation, Li 2023). Not distillation."""

    kind: Literal["reverse"] = "reverse"
    texts: int = Field(ge=1, description="texts to write an instruction for, of the train split")
    shown: int = Field(2, ge=0, le=16, description="examples in a request: other rows of the train split")
    prompt: str = Field(
        "Here is a text:\n\n{{ text }}\n\nWrite the instruction that this text is the perfect answer to. "
        "Write the instruction alone, in one sentence.",
        description="Jinja template over `text`",
    )
    writing: Writing = Writing(max_new_tokens=64, temperature=0.7)  # type: ignore[call-arg]


Method = Annotated[SelfInstruct | Evolve | Reverse, Field(discriminator="kind")]


class HeldOut(Section):
    """Generated rows that no student trains on. Where one is 0, the data's own split stays."""

    validation: int = Field(0, ge=0)
    calibration: int = Field(0, ge=0)
    test: int = Field(0, ge=0)


class Synthesis(Section):
    """Rows that the teacher makes of the data's rows; later stages read them in place of the data's."""

    methods: tuple[Method, ...] = Field(
        min_length=1,
        description="in this order; all share what was kept before",
        examples=[
            [{"kind": "self-instruct", "instructions": 500}, {"kind": "evolve", "instructions": 200}],
            [{"kind": "reverse", "texts": 300}],
        ],
    )
    responses: Writing = Field(Writing(), description="how the teacher answers")  # type: ignore[call-arg]
    near_duplicate: Similarity = Field(
        0.7, description="ROUGE-L with any kept instruction above which a new one is dropped"
    )
    min_words: int = Field(3, ge=1, description="of an instruction; shorter ones are dropped")
    max_words: int = Field(150, ge=1, description="of an instruction; longer ones are dropped")
    blocklist: tuple[str, ...] = Field((), description="words and phrases; rows that hold one are dropped")
    keep_data: bool = Field(False, description="also train on the data's own rows")
    held_out: HeldOut = HeldOut()  # type: ignore[call-arg]
