"""What a server says of a text that it was sent: log-probabilities of each token, read of a completion.

Two forms. `echo` with `logprobs` (OpenAI's older completions, llama-cpp-python's server): tokens as strings, and for
each its log-probability and those of the likeliest. `prompt_logprobs` (vLLM): for each token of the prompt the
likeliest by their ids, the token itself among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distill2edge.generation.endpoint.reply import Unreadable

_ABOVE = 0.01  # what rounding may put a log-probability above zero
_MASS = 1.02  # and probabilities that exclude each other above one
_NONE = -1000.0  # servers write numbers below for what has no probability


@dataclass(frozen=True)
class Echo:
    """The tokens of a text, and of what was written after it, as a server spells them.

    Attributes:
        own: log-probability of each; None where there is none.
        top: of the likeliest at its place, by their spelling; None where there are none.
    """

    tokens: tuple[str, ...]
    own: tuple[float | None, ...]
    top: tuple[Mapping[str, float] | None, ...]


@dataclass(frozen=True)
class Named:
    """The likeliest tokens at one place of a prompt.

    Attributes:
        logprobs: by the token's id.
        spelt: the spelling of each that has one.
    """

    logprobs: Mapping[int, float]
    spelt: Mapping[int, str]


def read_echo(choice: Mapping[str, Any]) -> Echo | None:
    """The tokens of the text that was sent; None where the choice has none.

    Raises:
        Unreadable: numbers that are no log-probabilities, or lists of different lengths.
    """
    found = choice.get("logprobs")
    if not isinstance(found, dict):
        return None
    tokens, own, top = (found.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(top, list) or not tokens:
        return None
    own = own if isinstance(own, list) else [None] * len(tokens)
    if not len(tokens) == len(top) == len(own) or not all(isinstance(token, str) for token in tokens):
        raise Unreadable("the lists of tokens and of log-probabilities differ in length")
    at_each = tuple(None if each is None else dict(_listed(each)) for each in top)
    for each in at_each:
        _check_mass(each or {})
    return Echo(tuple(tokens), tuple(None if one is None else _number(one) for one in own), at_each)


def read_prompt_logprobs(choice: Mapping[str, Any]) -> tuple[Named | None, ...] | None:
    """The likeliest tokens at each place of the prompt; None where the choice has none.

    Raises:
        Unreadable: numbers that are no log-probabilities, or ids that are none.
    """
    found = choice.get("prompt_logprobs")
    return tuple(map(_named, found)) if isinstance(found, list) and found else None


def _named(place: Any) -> Named | None:
    if place is None:
        return None
    if not isinstance(place, dict):
        raise Unreadable("prompt_logprobs holds something else than lists of tokens")
    logprobs, spelt = {}, {}
    for name, each in place.items():
        if not (name.isascii() and name.isdigit()):
            raise Unreadable("prompt_logprobs names tokens by something else than their ids")
        given = each if isinstance(each, dict) else {"logprob": each}
        if (value := _number(given.get("logprob"))) is not None:
            logprobs[int(name)] = value
        if isinstance(given.get("decoded_token"), str):
            spelt[int(name)] = given["decoded_token"]
    _check_mass(logprobs)
    return Named(logprobs, spelt)


def _listed(place: Any) -> Iterator[tuple[str, float]]:
    if not isinstance(place, dict):
        raise Unreadable("top_logprobs holds something else than tokens with their log-probabilities")
    for token, value in place.items():
        if (number := _number(value)) is not None:
            yield token, number


def _number(value: Any) -> float | None:
    """A log-probability; None of what has no probability."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > _ABOVE:
        raise Unreadable(f"a log-probability is {value!r}"[:80])
    return None if value < _NONE else min(float(value), 0.0)


def _check_mass(logprobs: Mapping[Any, float]) -> None:
    if sum(map(math.exp, logprobs.values())) > _MASS:
        raise Unreadable("the probabilities at one place add up to more than one")
