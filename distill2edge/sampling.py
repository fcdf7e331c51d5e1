"""Drawing one token from logits, for the runtimes that leave it to us."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def draw_token(logits: np.ndarray, temperature: float, top_p: float, random: np.random.Generator) -> int:
    """The next token.

    Args:
        logits: [V].
        temperature: 0 is greedy.
        top_p: nucleus sampling (Holtzman 2020): the fewest likeliest tokens whose mass reaches it.
    """
    import numpy as np

    if temperature <= 0:
        return int(logits.argmax())
    weights = np.exp((logits - logits.max()) / temperature)
    order = np.argsort(-weights)
    sorted_weights = weights[order] / weights.sum()
    kept = int(np.searchsorted(np.cumsum(sorted_weights), top_p)) + 1
    chosen = sorted_weights[:kept] / sorted_weights[:kept].sum()
    return int(order[random.choice(len(chosen), p=chosen)])
