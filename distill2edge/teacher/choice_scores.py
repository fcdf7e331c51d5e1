"""The likelihood of each answer to a prompt, by a teacher that runs here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill2edge.data.examples import Encoded
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.generation.backends import Backend
    from distill2edge.teacher.choice_correction import Floats

Tokens = Sequence[int]


def choice_scores(
    backend: Backend,
    prompts: Sequence[Tokens],
    choices: Sequence[Sequence[Tokens]],
    done: Callable[[int], None] | None = None,
) -> Floats:
    """Sum of log p over the tokens of every answer, after its prompt.

    A prompt is read once where its answers differ in their last token alone, and once more for each further beginning.
    Of each reading only the log-probabilities of the tokens that may follow are kept, not those of the vocabulary.

    Args:
        prompts: token ids, at least one each.
        choices: of each prompt, the token ids of its C answers.
        done: told of each prompt.

    Returns:
        [n, C] float32.

    Raises:
        UserError: logits that are not finite.
    """
    asked: list[Encoded] = []
    owner: list[tuple[int, tuple[int, ...]]] = []
    for number, (prompt, own) in enumerate(zip(prompts, choices, strict=True)):
        for begin in beginnings(own):
            ids = [*prompt, *begin, 0]  # what follows is read off before the last token, whichever it is
            mask = [False] * len(prompt) + [True] * (len(begin) + 1)
            asked.append(Encoded(f"{number}", ids, mask))
            owner.append((number, begin))
    follows = [_followers(own) for own in choices]
    after: list[dict[tuple[int, ...], dict[int, np.float32]]] = [{} for _ in prompts]
    left = Counter(number for number, _ in owner)
    scores = np.empty((len(prompts), len(choices[0]) if choices else 0), dtype=np.float32)
    for at, logits in backend.supervised_logits(asked):
        number, begin = owner[at]
        for length, row in enumerate(logits):
            wanted = follows[number].get(begin[:length], [])
            found = row.float().log_softmax(-1)[wanted].cpu().numpy()  # a list as an index copies: the row is freed
            after[number][begin[:length]] = dict(zip(wanted, found, strict=True))
        left[number] -= 1
        if not left[number]:
            scores[number] = [
                float(sum(after[number][tuple(choice[:k])][token] for k, token in enumerate(choice)))
                for choice in choices[number]
            ]
            after[number] = {}
            if done is not None:
                done(1)
    if not np.isfinite(scores).all():
        raise UserError(
            "the teacher gives likelihoods that are not numbers", where="teacher.model",
            fix="lower teacher.fit.learning_rate, or take another teacher or dtype",
        )  # fmt: skip
    return scores


def _followers(choices: Sequence[Tokens]) -> dict[tuple[int, ...], list[int]]:
    """The tokens that may follow each beginning of an answer."""
    found: dict[tuple[int, ...], dict[int, None]] = {}
    for choice in choices:
        for at, token in enumerate(choice):
            found.setdefault(tuple(choice[:at]), {})[token] = None
    return {begin: list(tokens) for begin, tokens in found.items()}


def beginnings(choices: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """What must stand after a prompt so that every token of its answers is predicted once; none begins another."""
    needed = {tuple(choice[:-1]) for choice in choices}
    return sorted(each for each in needed if not any(each != other and other[: len(each)] == each for other in needed))
