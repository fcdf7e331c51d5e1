"""What every runtime offers: logits at chosen positions, prefill and decode with a cache. It knows no tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np


class Runtime(Protocol):
    """One loaded model. One sequence at a time; token ids in, float32 logits out."""

    name: str
    """`torch`, `onnxruntime` or `llama.cpp`."""
    vocab_size: int
    """Length V of every logit vector."""

    def logits(self, ids: Sequence[int], positions: Sequence[int]) -> np.ndarray:
        """Logits [len(positions), V] from an empty cache; row i predicts token `positions[i] + 1`."""

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Empty the cache, fill it with `ids`, and return the logits [V] of the next token."""

    def decode(self, token: int) -> np.ndarray:
        """Append one token to the cache and return the logits [V] of the next one."""

    def close(self) -> None:
        """Free the weights and the cache."""


def logits_at(runtime: Runtime, ids: Sequence[int], positions: Sequence[int], prompt: int) -> np.ndarray:
    """`runtime.logits`, with where the prompt ends for those that must know: an encoder reads nothing else.

    A runtime of an encoder-decoder has the attribute `needs_prompt` and takes `prompt` in `logits`. Its `prefill` reads
    the source and gives the distribution of the first target token, as a decoder's does after a prompt.
    """
    if getattr(runtime, "needs_prompt", False):
        with_prompt: Any = runtime.logits
        found: np.ndarray = with_prompt(ids, positions, prompt=prompt)
        return found
    return runtime.logits(ids, positions)


def check_positions(positions: Sequence[int], prompt: int) -> None:
    """Refuse positions inside the source: an encoder predicts nothing.

    Raises:
        ValueError: one of them.
    """
    if prompt < 1 or (len(positions) and min(positions) < prompt - 1):
        raise ValueError(f"position {min(positions, default=0)} lies inside a source of {prompt} tokens")


class Classifier(Protocol):
    """One loaded classifier. One text at a time; token ids in, float32 class logits out."""

    name: str
    """`torch`, `onnxruntime` or `llama.cpp`."""
    labels: list[str]
    """Names of the classes, in the order of the logits."""

    def classify(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """Class logits [C] of one text; `ids` hold the special tokens. `types`: segment ids [L], of two texts."""

    def close(self) -> None:
        """Free the weights."""


class Tagger(Protocol):
    """One loaded token classifier. One text at a time; token ids in, float32 logits of the tags out."""

    name: str
    """`torch` or `onnxruntime`."""
    labels: list[str]
    """Names of the tags, in the order of the logits."""

    def tag(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [L, C] of each token of one text; `ids` hold the special tokens."""

    def close(self) -> None:
        """Free the weights."""


class Embedder(Protocol):
    """One loaded embedder. One text at a time; token ids in, one vector out."""

    name: str
    """`torch`, `onnxruntime` or `llama.cpp`."""

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Vector [D] of one text, pooled and normalised as the model was trained; `ids` hold the special tokens."""

    def close(self) -> None:
        """Free the weights."""


def reader_of(runtime: Any) -> Callable[[Sequence[int]], np.ndarray] | None:
    """What a runtime of a model that writes nothing says of a text; None of one that writes."""
    for name in ("classify", "tag", "embed"):
        if hasattr(runtime, name):
            found: Callable[[Sequence[int]], np.ndarray] = getattr(runtime, name)
            return found
    return None


def check_request(ids: Sequence[int], positions: Sequence[int], context: int) -> None:
    """Refuse a request no runtime could answer.

    Raises:
        ValueError: no ids, more ids than `context`, or a position outside the ids.
    """
    if not len(ids):
        raise ValueError("no token ids")
    if len(ids) > context:
        raise ValueError(f"{len(ids)} tokens do not fit a context of {context}")
    if len(positions) and not (min(positions) >= 0 and max(positions) < len(ids)):
        raise ValueError(f"positions {min(positions)}..{max(positions)} outside 0..{len(ids) - 1}")
