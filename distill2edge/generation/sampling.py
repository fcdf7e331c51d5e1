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
    weights = np.exp((logits - logits.max()) / temperature, dtype=np.float64)
    if top_p >= 1:
        mass = np.cumsum(weights)
        return int(min(np.searchsorted(mass, random.random() * mass[-1], side="right"), len(weights) - 1))
    order = _likeliest(weights, top_p * weights.sum())
    mass = np.cumsum(weights[order])
    return int(order[min(np.searchsorted(mass, random.random() * mass[-1], side="right"), len(order) - 1)])


def _likeliest(weights: np.ndarray, wanted: float) -> np.ndarray:
    """The fewest likeliest tokens whose weights reach `wanted`, likeliest first; sorts a few before it sorts all."""
    import numpy as np

    size = len(weights)
    for count in (256, 4096, size):
        some = np.argpartition(weights, size - count)[size - count :] if count < size else np.arange(size)
        order = some[np.argsort(-weights[some], kind="stable")]
        mass = np.cumsum(weights[order])
        if mass[-1] >= wanted or count >= size:
            break
    kept: np.ndarray = order[: int(np.searchsorted(mass, wanted)) + 1]
    return kept
