"""What an endpoint says, as a class: the text of an answer, or the log-probabilities of its first token."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

PRIOR = 0.5
"""Added to the count of each class (Jeffreys' prior), so that none is ruled out by a few answers."""


def choice_of(text: str, answers: Sequence[str]) -> int | None:
    """The answer that a text is: the whole of it, what it begins with, or the only one that stands in it; None where
    it is none of them, or several."""
    said, known = _normal(text), [_normal(answer) for answer in answers]
    for matches in (
        [at for at, answer in enumerate(known) if said == answer],
        _longest([at for at, answer in enumerate(known) if _begins(said, answer)], known),
        _longest([at for at, answer in enumerate(known) if _stands(said, answer)], known),
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            return None
    return None


def scores_of_counts(counts: Sequence[int]) -> list[float] | None:
    """[C] log of the smoothed share of each answer; None where there was none to count."""
    total = sum(counts)
    if not total:
        return None
    return [math.log((count + PRIOR) / (total + PRIOR * len(counts))) for count in counts]


def scores_of_first(alternatives: Sequence[tuple[str, float]], answers: Sequence[str]) -> list[float] | None:
    """[C] log of the mass of the first tokens that only this answer begins with.

    A server lists the likeliest tokens alone: an answer that none of them begins gets half the mass of the least. A
    token that several answers begin with tells nothing; where such tokens have more than the others, nothing is told.

    Args:
        alternatives: (token, log-probability) of the first token.

    Returns:
        None where no token tells answers apart.
    """
    known, mass, shared = [_normal(answer) for answer in answers], [0.0] * len(answers), 0.0
    for token, logprob in alternatives:
        said = _normal(token)
        begun = [at for at, answer in enumerate(known) if said and (answer.startswith(said) or _begins(said, answer))]
        if len(begun) == 1:
            mass[begun[0]] += math.exp(logprob)
        elif begun:
            shared += math.exp(logprob)
    if sum(mass) <= shared:
        return None
    named = [math.exp(logprob) for _, logprob in alternatives]
    least = max(min(min(named) / 2, 1 - sum(named)), 1e-12)  # what is not named has no more than the rest
    return [math.log(max(each, least)) for each in mass]


def _normal(text: str) -> str:
    """Without case, forms of Unicode, and what stands around words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\s+", " ", folded.strip(" \t\r\n.,;:!?\"'`*()[]{}<>\u201c\u201d\u2018\u2019\u2581\u0121"))


def _begins(said: str, answer: str) -> bool:
    """Whether a text begins with the whole words of an answer."""
    return said.startswith(answer) and not said[len(answer) : len(answer) + 1].isalnum()


def _stands(said: str, answer: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", said) is not None


def _longest(matches: Sequence[int], known: Sequence[str]) -> list[int]:
    """Without those that are part of another match: `very good` is not also `good`."""
    return [at for at in matches if not any(at != other and known[at] in known[other] for other in matches)]
