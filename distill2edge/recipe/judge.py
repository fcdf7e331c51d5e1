"""`verify.judge`: a model that compares what the student writes with what the teacher writes."""

from __future__ import annotations

from typing import Literal

from jinja2 import TemplateSyntaxError
from pydantic import Field, field_validator

from distill2edge.recipe.paths import PathText
from distill2edge.recipe.section import Section
from distill2edge.templating.bounded import COMPILE_FAULTS, BoundedEnvironment, undeclared

WHERE = "verify.judge"
NAMES = ("prompt", "first", "second", "reference")


class PairwiseJudge(Section):
    """A model reads the student's and the teacher's answer, in both orders, and says which is better (Zheng 2023)."""

    model: PathText = Field(
        description="hub id | local directory | file.gguf | bundled:NAME; neither teacher nor student, since a model "
        "favours answers of its own"
    )
    revision: str | None = Field(None, description="commit of a hub model")
    rows: int = Field(40, ge=1, description="held-out prompts; at most the test split")
    answer_tokens: int = Field(
        128, ge=1, le=2**20, description="of an answer, at most; student and teacher write greedily"
    )
    prompt: str = Field(
        "Two assistants answered the same request. Decide which answer is of more help: it should be right, do what "
        "was asked, and be clear. Length alone is no merit, and which of them comes first means nothing."
        "\n\nRequest:\n{{ prompt }}\n\nAnswer A:\n{{ first }}\n\nAnswer B:\n{{ second }}\n\n"
        "Reply with [[A]] if answer A is better, with [[B]] if answer B is better, or with [[C]] if neither is.",
        description="Jinja template over prompt, first, second and reference (the data's own response); the reply must "
        "hold [[A]] (first), [[B]] (second) or [[C]] (tie)",
    )
    template: Literal["chat", "plain"] = Field("chat", description="as data.template, of the judge")
    max_new_tokens: int = Field(16, ge=1, le=2**20, description="of the judge's reply")

    @field_validator("prompt")
    @classmethod
    def _shows_both(cls, prompt: str) -> str:
        environment = BoundedEnvironment()
        try:
            named = undeclared(environment.parse(prompt)) - set(environment.globals)
        except COMPILE_FAULTS as error:
            line = f" (line {error.lineno})" if isinstance(error, TemplateSyntaxError) else ""
            raise ValueError(f"not valid Jinja{line}: {str(error)[:200]}") from error
        if unknown := sorted(named - set(NAMES)):
            raise ValueError(f"the template knows no {', '.join(unknown)}: name {', '.join(NAMES)}")
        if not {"first", "second"} <= named:
            raise ValueError("the template must show both answers: name {{ first }} and {{ second }}")
        return prompt
