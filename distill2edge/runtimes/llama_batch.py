"""Many texts at once through llama.cpp: a sequence that ends makes room for the next prompt at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from distill2edge.runtimes.llama_cpp import LlamaCppRuntime

Draw = Callable[[int, np.ndarray], int]
"""(number of the prompt, logits [V]) -> the next token."""


@dataclass
class _Slot:
    """One sequence of the cache, and the prompt it answers."""

    sequence: int
    number: int = -1
    length: int = 0
    written: list[int] = field(default_factory=list)


def generate_many(
    runtime: LlamaCppRuntime,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Sequence[int],
    draw: Draw,
    done: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Generated ids of every prompt, the stop token included where one came.

    Every step decodes one token for each running sequence in one pass; a free sequence takes the next prompt, whose
    tokens join the same pass where they fit.

    Args:
        runtime: opened with as many `sequences` as shall run together, and `context` for the longest prompt and answer.
        stop: ids that end an answer.
        draw: chooses a token.
        done: called with the number of each prompt when its answer is complete.

    Raises:
        ValueError: a prompt and its answer don't fit the context, or a prompt doesn't fit a batch.
    """
    for prompt in prompts:
        if not prompt or len(prompt) + max_new_tokens > runtime.context or len(prompt) > runtime.batch:
            raise ValueError(f"a prompt of {len(prompt)} tokens does not fit batch {runtime.batch} and context")
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = list(reversed(range(len(prompts))))
    free = [_Slot(sequence) for sequence in reversed(range(runtime.sequences))]
    running: list[_Slot] = []
    runtime.clear()
    while waiting or running:
        feeds: list[tuple[_Slot, Sequence[int]]] = [(slot, slot.written[-1:]) for slot in running]
        room = runtime.batch - len(feeds)
        while free and waiting and len(prompts[waiting[-1]]) <= room:
            slot = free.pop()
            slot.number, slot.length, slot.written = waiting.pop(), 0, []
            feeds.append((slot, prompts[slot.number]))
            running.append(slot)
            room -= len(prompts[slot.number])
        rows = runtime.step([(slot.sequence, tokens, slot.length) for slot, tokens in feeds])
        for (slot, tokens), logits in zip(feeds, rows, strict=True):
            slot.length += len(tokens)
            slot.written.append(draw(slot.number, logits))
            if slot.written[-1] in stop or len(slot.written) >= max_new_tokens:
                answers[slot.number] = slot.written
                runtime.forget(slot.sequence)
                running.remove(slot)
                free.append(slot)
                if done:
                    done(slot.number)
    return answers
