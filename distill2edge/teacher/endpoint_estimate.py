"""What an endpoint may be paid for a recipe, before anything is asked: an upper bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from distill2edge.teacher.endpoint_record import prices_of
from distill2edge.util.quantities import readable_usd

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe

_EXAMPLE = 60  # tokens of an example that a synthesis shows
_ANSWER = 16  # tokens of a class's name, at most
_REQUEST = 120  # tokens of what it asks around them


def estimate(recipe: Recipe, rows: int, tokens_per_prompt: float) -> dict[str, Any] | None:
    """Requests, tokens and dollars of what a recipe asks its teacher for; None where no endpoint is asked.

    Every answer is counted at its full length, so the true sum is lower.

    Args:
        rows: prompts that the text signal answers.
        tokens_per_prompt: of the data, with the system message.

    Raises:
        UserError: a price that nobody knows.
    """
    endpoint = recipe.teacher.endpoint
    if endpoint is None:
        return None
    asked = list(_asked(recipe, rows, tokens_per_prompt))
    requests = sum(each.requests for each in asked)
    prompt, answer = (sum(each.requests * getattr(each, part) for each in asked) for part in ("prompt", "answer"))
    prices = prices_of(endpoint)
    usd = None if prices is None else prices.cost(round(prompt), round(answer))
    tokens = round(prompt + answer)
    return {
        "model": endpoint.model,
        "requests": requests,
        "tokens": tokens,
        "usd": usd,
        "max_usd": endpoint.max_usd,
        "max_tokens": endpoint.max_tokens,
        "enough": (endpoint.max_usd is None or usd is None or usd <= endpoint.max_usd)
        and (endpoint.max_tokens is None or tokens <= endpoint.max_tokens),
    }


def sentence(found: dict[str, Any]) -> str:
    """The estimate for people."""
    cost = "" if found["usd"] is None else f", {readable_usd(found['usd'])}"
    limits = [f"${found['max_usd']:g}"] if found["max_usd"] is not None else []
    limits += [f"{found['max_tokens']:,} tokens"] if found["max_tokens"] is not None else []
    end = "" if found["enough"] else "; it may be reached before the end: the run then stops and can go on later"
    return (
        f"endpoint {found['model']}: at most {found['requests']:,} requests, {found['tokens']:,} tokens{cost}; "
        f"budget {' and '.join(limits)}{end}"
    )


class _Asked(NamedTuple):
    """Requests of one length, with the tokens of each."""

    requests: int
    prompt: float
    answer: float


def _asked(recipe: Recipe, rows: int, prompt: float) -> Iterator[_Asked]:
    """What each stage asks; `rows` and `prompt` as `estimate`."""
    splits, signal = recipe.data.splits, recipe.signal
    if recipe.synthesis is not None:
        for method in recipe.synthesis.methods:
            asked, wanted, shown = _counts(method)
            yield _Asked(asked, _REQUEST + shown * _EXAMPLE, method.writing.max_new_tokens)
            if method.kind != "reverse":
                yield _Asked(wanted, prompt, recipe.synthesis.responses.max_new_tokens)
        rows = sum(_counts(method)[1] for method in recipe.synthesis.methods)
    if signal.kind == "text":
        held_out = _held_out(recipe) if recipe.without_references else 0
        yield _Asked(rows * signal.samples + held_out, prompt, signal.max_new_tokens)
    if recipe.scored_elsewhere:  # each row's own text, and the one token that a server writes after it
        yield _Asked(rows + splits.validation, prompt, 1)
    if (ask := recipe.teacher.ask) is not None and signal.kind == "labels":
        times = 1 if ask.logprobs == "require" else ask.samples
        every = rows + splits.validation + splits.test
        yield _Asked(every * times, prompt * (1 + ask.shots) + len(ask.prompt) / 3, _ANSWER)
    if (judge := recipe.verify.judge) is not None:  # the answers that the student's are compared with
        test = recipe.synthesis.held_out.test if recipe.synthesis is not None else 0
        yield _Asked(min(judge.rows, test or splits.test), prompt, judge.answer_tokens)


def _held_out(recipe: Recipe) -> int:
    """Rows that the teacher answers too, where nobody else did."""
    splits = recipe.data.splits
    return splits.validation + splits.calibration + splits.test


def _counts(method: Any) -> tuple[int, int, int]:
    """Of a method of synthesis: requests at most, instructions wanted, examples shown."""
    if method.kind == "self-instruct":
        return method.max_requests or 8 * method.instructions, method.instructions, method.shown
    if method.kind == "evolve":
        return method.instructions * method.rounds, method.instructions * method.rounds, 0
    return method.texts, method.texts, method.shown
