"""A teacher behind an OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.ranges import Reason
from distill2edge.recipe.section import Section

PREFIX = "endpoint:"
# What a request consists of, and what would give other than one whole answer.
_OURS = {"messages", "model", "n", "stream", "max_tokens", "max_completion_tokens", "prompt", "prompt_logprobs", "echo"}


class Endpoint(Section):
    """An OpenAI-compatible server that runs the teacher: chat completions for text, completions for scores."""

    model: str = Field(min_length=1, description="name of the model in the requests")
    key_env: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="environment variable that holds the key; null sends none",
    )
    max_usd: float | None = Field(None, ge=0.0001, description="hard budget in US dollars; needs prices")
    max_tokens: int | None = Field(None, ge=1, description="hard budget in tokens, prompt and answer")
    price: str | None = Field(None, description="API model of the price catalogue")
    input_usd: float | None = Field(
        None, ge=0, le=10**6, description="US dollars per million prompt tokens, in place of price"
    )
    output_usd: float | None = Field(
        None, ge=0, le=10**6, description="US dollars per million answer tokens, in place of price"
    )
    concurrency: int = Field(8, ge=1, le=256, description="requests under way at once")
    requests_per_minute: Annotated[float, Reason("fewer than six an hour never end")] | None = Field(None, ge=0.1)
    tokens_per_minute: float | None = Field(None, ge=1)
    retries: int = Field(6, ge=0, le=100, description="further tries of one request, with growing pauses")
    timeout_s: float = Field(120, ge=0.1, le=86_400, description="seconds for one answer")
    send_seed: bool = Field(True, description="send `seed`, so that a server that knows it draws the same again")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="how the server calls the limit of an answer"
    )
    extra: dict[str, Any] = Field(default_factory=dict, description="further fields of every request")

    def problems(self) -> Iterator[Problem]:
        """A budget, and prices that it can be counted with."""
        if (self.input_usd is None) != (self.output_usd is None):
            yield Problem((), "one of two prices is missing", "give input_usd and output_usd together")
        if self.price and self.input_usd is not None:
            yield Problem(("price",), "prices are given twice", "give price, or input_usd and output_usd, not both")
        if self.max_usd is not None and not self.price and self.input_usd is None:
            fix = "price (of the catalogue), or input_usd and output_usd"
            yield Problem(("max_usd",), "max_usd needs prices", fix)
        if self.max_usd is None and self.max_tokens is None:
            yield Problem((), "an endpoint needs a budget", "max_usd or max_tokens")
        if taken := sorted(_OURS & self.extra.keys()):
            what = f"extra must not hold {', '.join(taken)}: the requests have their own"
            yield Problem(("extra",), what, "take it out")

    @property
    def asked(self) -> dict[str, Any]:
        """What an answer depends on; the rest (budget, limits, retries) may change between two tries of one run."""
        return {"model": self.model, "send_seed": self.send_seed, "extra": self.extra}
