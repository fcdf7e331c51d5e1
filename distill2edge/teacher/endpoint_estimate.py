"""What an endpoint may be paid for a recipe, before anything is asked: an upper bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    requests, prompt, answer = 0, 0.0, 0.0
    if recipe.synthesis is not None:
        for method in recipe.synthesis.methods:
            asked, wanted, shown = _counts(method)
            requests += asked
            prompt += asked * (_REQUEST + shown * _EXAMPLE)
            answer += asked * method.writing.max_new_tokens
            if method.kind != "reverse":
                requests += wanted
                prompt += wanted * tokens_per_prompt
                answer += wanted * recipe.synthesis.responses.max_new_tokens
        rows = sum(_counts(method)[1] for method in recipe.synthesis.methods)
    if recipe.signal.kind == "text":
        asked = rows * recipe.signal.samples
        asked += _held_out(recipe) if recipe.without_references else 0
        requests += asked
        prompt += asked * tokens_per_prompt
        answer += asked * recipe.signal.max_new_tokens
    if recipe.scored_elsewhere:  # each row's own text, and the one token that a server writes after it
        asked = rows + recipe.data.splits.validation
        requests += asked
        prompt += asked * tokens_per_prompt
        answer += asked
    if (ask := recipe.teacher.ask) is not None and recipe.signal.kind == "labels":
        splits = recipe.data.splits
        every = rows + splits.validation + splits.test
        asked = every * (1 if ask.logprobs == "require" else ask.samples)
        requests += asked
        prompt += asked * (tokens_per_prompt * (1 + ask.shots) + len(ask.prompt) / 3)
        answer += asked * _ANSWER
    if (judge := recipe.verify.judge) is not None:  # the answers that the student's are compared with
        held_out = recipe.synthesis.held_out.test if recipe.synthesis is not None else 0
        asked = min(judge.rows, held_out or recipe.data.splits.test)
        requests += asked
        prompt += asked * tokens_per_prompt
        answer += asked * judge.answer_tokens
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
