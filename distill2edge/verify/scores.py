"""The task score of one row, from log-probabilities: a choice by likelihood, an exact answer, or its probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from distill2edge.runtimes.protocol import logits_at

if TYPE_CHECKING:
    from distill2edge.runtimes.protocol import Runtime

Floats: TypeAlias = NDArray[np.float32]

FLOOR = -1e4
"""Least log-probability: exp of it is 0 in any float."""


def log_softmax(logits: Floats) -> Floats:
    """[n, V] logits -> log-probabilities, float32; the normaliser is summed in float64.

    A token that a model rules out altogether gets `FLOOR`, so that its divergence is a number, and a huge one.

    Raises:
        ValueError: a logit is not a finite number or minus infinity.
    """
    top = logits.max(axis=-1, keepdims=True)
    if not np.isfinite(top).all() or np.isnan(logits).any():
        raise ValueError("the model computes logits that are not numbers")
    shifted = logits - top
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    floored: Floats = np.maximum(shifted - np.log(total), FLOOR).astype(np.float32)
    return floored


def trim_stop(choices: Sequence[Sequence[int]], stop: Sequence[int]) -> list[tuple[int, ...]]:
    """The choices without an end token that all of them carry.

    It tells choices apart only where one begins another, and costs a forward pass for each: so it stays only there.
    """
    ends = {tuple(choice)[-1] for choice in choices}
    if len(ends) > 1 or not ends <= set(stop) or any(len(choice) < 2 for choice in choices):
        return [tuple(choice) for choice in choices]
    bare = [tuple(choice)[:-1] for choice in choices]
    begins = any(a is not b and b[: len(a)] == a for a in bare for b in bare)
    return [tuple(choice) for choice in choices] if begins else bare


def choice_likelihoods(
    runtime: Runtime,
    prompt: Sequence[int],
    choices: Sequence[Sequence[int]],
    known: Mapping[tuple[int, ...], Floats] | None = None,
) -> list[float]:
    """log p(choice | prompt) of each choice, in as few forward passes as their shared beginnings allow.

    Choices that differ in their last token alone need one pass; `known` may save that one as well.

    Args:
        runtime: the model.
        prompt: token ids before every choice, at least one.
        choices: token ids of each.
        known: log-probabilities [V] of the token after prompt + the key, where the caller has them already.
    """
    after: dict[tuple[int, ...], Floats] = dict(known or {})
    wanted = {tuple(choice[:length]) for choice in choices for length in range(len(choice))}
    for context in sorted(wanted, key=len, reverse=True):
        if context in after:
            continue
        # The longest first: its pass yields every beginning of it.
        lengths = [length for length in range(len(context) + 1) if context[:length] not in after]
        positions = [len(prompt) + length - 1 for length in lengths]
        rows = log_softmax(logits_at(runtime, [*prompt, *context], positions, len(prompt)))
        after.update((context[:length], row) for length, row in zip(lengths, rows, strict=True))
    return [float(sum(after[tuple(choice[:index])][token] for index, token in enumerate(choice))) for choice in choices]


def generate(runtime: Runtime, prompt: Sequence[int], limit: int, stop: Sequence[int]) -> list[int]:
    """Greedy continuation of `prompt`, without the stop token, at most `limit` tokens."""
    ends, out = set(stop), list[int]()
    logits = runtime.prefill(prompt)
    while (token := int(np.argmax(logits))) not in ends:
        out.append(token)
        if len(out) >= limit:
            break
        logits = runtime.decode(token)
    return out


def without_stop(response: Sequence[int], stop: Sequence[int]) -> list[int]:
    """A response up to its first stop token."""
    ends = set(stop)
    cut = next((index for index, token in enumerate(response) if token in ends), len(response))
    return list(response[:cut])
