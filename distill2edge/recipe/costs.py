"""The recipe's section on prices: where teacher and student are served, and how busy they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.paths import PathText
from distill2edge.recipe.section import LATER, Section


class Place(Section):
    """Where a model is served: exactly one of the fields."""

    rented: str | None = Field(None, description="machine of the price catalogue")
    device: str | None = Field(None, description="owned device of the price catalogue")
    api: str | None = Field(None, description="API model of the price catalogue (teacher only)")

    def problems(self) -> Iterator[Problem]:
        """One place."""
        if sum(value is not None for value in (self.rented, self.device, self.api)) != 1:
            yield Problem((), "a place has one kind", "name exactly one of rented, device, api")


class RequestTokens(Section):
    """Tokens of one request as an API bills it: its instruction and examples count, which a student does without."""

    input: float = Field(ge=0, le=10**7, description="not cached")
    cached: float = Field(0.0, ge=0, le=10**7, description="those the API has read before, at its price for them")
    output: float = Field(ge=0, le=10**7)
    counted_with: str = Field(min_length=1, description="whose tokenizer counted, or how it was estimated")


class Cost(Section):
    """The price side of the comparison; measured speed comes from bench."""

    teacher: Place = Place(rented="cpu-2-vcpu")  # type: ignore[call-arg]
    student: Place = Place(rented="cpu-2-vcpu")  # type: ignore[call-arg]
    utilisation: float = Field(0.2, ge=0.0001, le=1, description="share of the time the machine is busy")
    requests_per_month: int = Field(100_000, ge=1)
    prices: PathText | None = Field(None, description="YAML file that overrides entries of the price catalogue")
    tokens: Annotated[RequestTokens | None, LATER] = Field(
        None, description="of a request to an API teacher; null: those of the bench's workload, in the teacher's tokens"
    )

    def problems(self) -> Iterator[Problem]:
        """Tokens are billed by an API, and a student has none."""
        if self.tokens is not None and self.teacher.api is None:
            fix = "set cost.teacher: {api: ...}, or take cost.tokens out"
            yield Problem(("tokens",), "only an API bills by the token", fix)
