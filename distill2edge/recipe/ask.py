"""How a language model that teaches a classifier is asked which class a text is of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.choices import same
from distill2edge.recipe.section import Section


class Ask(Section):
    """A language model as the teacher of a classifier: what it is asked, and how its answers become soft labels.

    A model that runs here is asked for the likelihood of every answer. An endpoint gives log-probabilities of its first
    token where it can, else some answers, which are counted. With data.multi an answer names any of the choices, or
    says `none`: what counts is the share of the answers that name each.
    """

    prompt: str = Field(
        "{{ prompt }}",
        description="Jinja template of what the teacher reads, over `prompt` (what the student reads), with data.pair "
        "`pair`, and `choices`",
    )
    template: Literal["chat", "plain"] = Field("chat", description="as data.template, of the teacher")
    system: str | None = Field(None, description="system message, with template chat")
    answers: tuple[str, ...] | None = Field(
        None, description="what the teacher says for each of data.choices, in their order; null: the choices themselves"
    )
    shots: int = Field(0, ge=0, le=256, description="training rows with their answers before each prompt, by the seed")
    correction: Literal["auto", "none", "contextual", "batch"] = Field(
        "auto",
        description="of likelihoods, for what the teacher says anyway: contextual (Zhao 2021) divides by those after "
        "empty texts, batch (Zhou 2023) by the mean over the training texts; auto: these, or a scale and prior fitted "
        "to the validation rows, whichever makes those likeliest; contextual where none has a response",
    )
    max_length: int = Field(1024, ge=8, le=2**20, description="tokens; a text whose prompt is longer is left out")
    samples: int = Field(
        5, ge=1, le=256, description="of an endpoint without log-probabilities: answers to each prompt that are counted"
    )
    logprobs: Literal["auto", "require", "never"] = Field(
        "auto",
        description="of an endpoint: auto takes log-probabilities where each of the first 32 answers brings some that "
        "tell the choices apart; require fails without; never counts answers",
    )

    def problems(self) -> Iterator[Problem]:
        """A system message without a chat; answers that are no text."""
        if self.system is not None and self.template != "chat":
            yield Problem(("system",), "a system message is for template chat", "leave it out, or set template: chat")
        if self.answers is not None and any(not answer.strip() for answer in self.answers):
            yield Problem(("answers",), "an answer is empty", "give each a text")
        elif self.answers is not None and len({same(answer).casefold() for answer in self.answers}) < len(self.answers):
            what = "two answers differ in blanks or case alone"
            yield Problem(("answers",), what, "give each class one that can be told from the others")
