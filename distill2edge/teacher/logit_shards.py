"""What a shard of a logit cache holds: the top k and the tail of each position, or a compact form of it.

P is the count of supervised positions in a shard (ascending within an example), n of examples. Of the top k:

    index      [P, k]   uint16, or int32 above 65,536 tokens
    logprob    [P, k]   float16, at temperature 1
    shift      [P]      float32, lse(z) / T - lse(z / T): log p_T = logprob / T + shift
    start      [n + 1]  int64, where each example's positions begin

with the metadata `ids` (JSON list of n example ids), `temperature`, `top_k` (as asked) and `vocabulary` (a hash of
token -> id). Of a compact form, at temperature T (`distill.compact_signal` says what they mean):

    counts     [P]      uint8, or uint16 above 255: tokens kept
    parameter  [P]      uint8
    rest       [P]      float16
    extra      [P]      float16
    body       [B]      uint8
    start, at  [n + 1]  int64, where each example's positions and body begin

with `sample` (N) and `seed`, or `mass` and `most` (k), in place of `top_k`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from distill2edge.data.examples import Encoded
from distill2edge.distill.compact_signal import Coded, Kept, pack
from distill2edge.recipe.schema import LogitsSignal
from distill2edge.teacher.kept_tokens import by_mass, sampled, uniforms
from distill2edge.teacher.token_views import Tokens

if TYPE_CHECKING:
    import torch


class Shard(Protocol):
    """The positions of some examples, as they come."""

    def keep(self, number: int, logits: torch.Tensor | None) -> None:
        """Keep what the teacher says of an example: logits [supervised, V] float32; None where it says nothing."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, once every example is kept."""

    def metadata(self) -> dict[str, str]:
        """Beside the settings of the cache."""


def settings_of(signal: LogitsSignal, tokens: Tokens, seed: int) -> dict[str, str]:
    """The metadata by which a shard is known to be of the same signal."""
    settings = {"temperature": repr(signal.temperature)}
    if signal.sample is not None:
        settings |= {"sample": str(signal.sample), "seed": str(seed)}
    elif signal.mass is not None:
        settings |= {"mass": repr(signal.mass), "most": str(signal.top_k)}
    else:
        settings["top_k"] = str(signal.top_k)
    return settings | {"vocabulary": tokens.vocabulary, **tokens.settings}


def open_shard(examples: Sequence[Encoded], signal: LogitsSignal, tokens: Tokens, rows: int, seed: int) -> Shard:
    """An empty shard of the signal's form; `rows`: of the teacher's embedding."""
    return CompactShard(examples, signal, seed) if signal.compact else TopKShard(examples, signal, tokens, rows)


class TopKShard:
    """As `Shard`: the top k and the tail."""

    def __init__(self, examples: Sequence[Encoded], signal: LogitsSignal, tokens: Tokens, rows: int) -> None:
        self._examples, self._signal, self._tokens = examples, signal, tokens
        self._start = _starts([example.supervised for example in examples])
        self._k = min(signal.top_k, tokens.size(rows))
        shape = (self._start[-1], self._k)
        self._index = np.empty(shape, dtype=np.int32 if tokens.wide(rows) else np.uint16)
        self._logprob = np.empty(shape, dtype=np.float16)
        self._shift = np.empty(self._start[-1], dtype=np.float32)
        self._sums: defaultdict[str, float] = defaultdict(float)

    def keep(self, number: int, logits: torch.Tensor | None) -> None:
        """As `Shard.keep`."""
        at = slice(int(self._start[number]), int(self._start[number + 1]))
        *found, added = self._tokens.compress(self._examples[number], logits, self._k, self._signal.temperature)
        self._index[at], self._logprob[at], self._shift[at] = (each.cpu().numpy() for each in found)
        for name, value in added.items():
            self._sums[name] += value

    def arrays(self) -> dict[str, np.ndarray]:
        """As `Shard.arrays`."""
        return {"index": self._index, "logprob": self._logprob, "shift": self._shift, "start": self._start}

    def metadata(self) -> dict[str, str]:
        """As `Shard.metadata`."""
        return {"sums": json.dumps(self._sums)} if self._sums else {}


class CompactShard:
    """As `Shard`: a sample, or the likeliest tokens that hold a share of the mass."""

    def __init__(self, examples: Sequence[Encoded], signal: LogitsSignal, seed: int) -> None:
        self._examples, self._signal, self._seed = examples, signal, seed
        self._coded: dict[int, Coded] = {}

    def keep(self, number: int, logits: torch.Tensor | None) -> None:
        """As `Shard.keep`."""
        assert logits is not None
        self._coded[number] = pack(self._kept(self._examples[number], logits), self._signal.sample)

    def _kept(self, example: Encoded, logits: torch.Tensor) -> Kept:
        signal = self._signal
        if signal.sample is None:
            assert signal.mass is not None
            return by_mass(logits, signal.top_k, signal.mass, signal.temperature)
        drawn = uniforms(self._seed, example.id, len(logits))
        return sampled(logits, signal.sample, signal.temperature, drawn)

    def arrays(self) -> dict[str, np.ndarray]:
        """As `Shard.arrays`."""
        coded = [self._coded[number] for number in range(len(self._examples))]
        arrays = {name: np.concatenate([getattr(each, name) for each in coded]) for name in Coded._fields}
        most = self._signal.sample or self._signal.top_k
        arrays["counts"] = arrays["counts"].astype(np.uint8 if most < 256 else np.uint16)
        return arrays | {
            "start": _starts([len(each.rest) for each in coded]),
            "at": _starts([len(each.body) for each in coded]),
        }

    def metadata(self) -> dict[str, str]:
        """As `Shard.metadata`."""
        return {}


def _starts(sizes: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
