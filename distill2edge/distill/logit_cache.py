"""The logit cache: what the teacher says at each supervised position of each example, in shards.

A shard is a safetensors file of n examples; `teacher.logit_shards` says what it holds. Examples are found by id, never
by number: a shuffle cannot misalign them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from distill2edge.distill.compact_signal import Coded, Kept, unpack
from distill2edge.distill.losses import LOG_ZERO, Sampled, TopK
from distill2edge.distill.shard_index import ShardIndex
from distill2edge.errors import UserError
from distill2edge.models.id_map import IdMap

TAIL_FLOOR = 2.0**-20
"""Least tail mass. float16 rounds a log-probability by up to 1 part in 2,048, so a smaller remainder is not known, and
a zero would make the reverse divergence infinite."""

NO_TOKEN = (1 << 31) - 1
"""Fills a position of fewer than k tokens up: an id beyond every vocabulary, which the losses count as the tail."""


class _Place(NamedTuple):
    """Where an example lies: its shard, its positions, and in a compact one its body."""

    shard: Any
    path: Path
    positions: slice
    body: slice


def _open(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, framework="numpy").__enter__()


class SignalReader:
    """A logit cache, of which few shards are open at once, memory-mapped.

    Attributes:
        temperature: T of the log-probabilities it returns.
        vocabulary: hash of the teacher's token -> id.
        top_k: the most tokens of a position.
        sample: N of a random sample; None where the likeliest tokens are kept.
        compact: whether `compact_signal` codes it.
    """

    def __init__(self, directory: Path) -> None:
        """Look at every shard of the directory.

        Raises:
            UserError: no shard, an unreadable one, or shards of different settings.
        """
        from safetensors import SafetensorError

        self.directory = Path(directory)
        paths = sorted(self.directory.glob("shard-*.safetensors"))
        if not paths:
            raise UserError(f"no logit cache in {self.directory}", fix="run the signal stage with signal.kind: logits")
        self._index = ShardIndex(_open)
        self._to: np.ndarray | None = None  # of a trimmed vocabulary: an id for each of the full one's, or -1
        settings: set[tuple[float, str, int, int | None, bool]] = set()
        for path in paths:
            try:
                shard = _open(path)
                metadata = shard.metadata()
                ids = json.loads(metadata["ids"])
                start = shard.get_tensor("start")
                compact = "body" in shard.keys()  # noqa: SIM118 (no mapping)
                at = shard.get_tensor("at") if compact else np.zeros_like(start)
                sample = int(metadata["sample"]) if "sample" in metadata else None
                k = (sample or int(metadata["most"])) if compact else shard.get_slice("index").get_shape()[1]
                settings.add((float(metadata["temperature"]), metadata["vocabulary"], k, sample, compact))
            except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
                raise UserError(
                    f"not a shard of a logit cache: {error}", where=str(path), fix="delete it and run the signal stage"
                ) from error
            if not len(start) == len(at) == len(ids) + 1:
                raise UserError("the shard's index is broken", where=str(path), fix="delete it and run the stage again")
            self._index.add(path, ids)
        if len(settings) > 1:
            raise UserError(
                "shards of different temperature, k, form or vocabulary",
                where=str(self.directory),
                fix="rebuild the cache",
            )
        ((self.temperature, self.vocabulary, self.top_k, self.sample, self.compact),) = settings

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, example: str) -> bool:
        return example in self._index

    def trimmed(self, ids: IdMap) -> SignalReader:
        """The same cache for a student with fewer tokens: in its ids, examples under the names that they have here.

        A token that the student lacks gets an id beyond its vocabulary, which the losses count as the tail.
        """
        other = copy.copy(self)
        other._to = ids.old_to_new
        return other

    def missing(self, examples: Iterable[str]) -> list[str]:
        """Those of the examples that the cache does not have."""
        return self._index.missing(examples)

    def positions(self, example: str) -> int:
        """How many supervised positions the cache has of an example."""
        positions = self._place(example).positions
        return positions.stop - positions.start

    def get(self, example: str) -> TopK | Sampled:
        """The teacher at each supervised position of an example, in order, at the cache's temperature.

        Returns:
            tokens [p, k] int64, log_p [p, k] float32, log_tail [p] float32, whose probabilities add up to 1; of a
            sample tokens and weight [p, N], entropy [p].

        Raises:
            KeyError: the example is not in the cache.
            UserError: what the cache has of it is broken.
        """
        place = self._place(example)
        if self.compact:
            return self._compact(place)
        tokens = self._in_students(place.shard.get_slice("index")[place.positions].astype(np.int64))
        log_p = place.shard.get_slice("logprob")[place.positions].astype(np.float32) / self.temperature
        log_p += place.shard.get_slice("shift")[place.positions].astype(np.float32)[:, None]
        kept = np.exp(log_p, dtype=np.float64).sum(-1)
        tail = np.maximum(1.0 - kept, TAIL_FLOOR)
        # Rounding can push the kept mass above what the tail leaves: scale to one.
        norm = np.log(kept + tail)
        log_p -= norm[:, None].astype(np.float32)
        log_tail = (np.log(tail) - norm).astype(np.float32)
        return TopK(torch.from_numpy(tokens), torch.from_numpy(log_p), torch.from_numpy(log_tail))

    def _place(self, example: str) -> _Place:
        shard, path, number = self._index.find(example)
        begin, end = shard.get_slice("start")[number : number + 2].tolist()
        body = shard.get_slice("at")[number : number + 2].tolist() if self.compact else (0, 0)
        return _Place(shard, path, slice(begin, end), slice(*body))

    def _compact(self, place: _Place) -> TopK | Sampled:
        from safetensors import SafetensorError

        try:
            per_position = (place.shard.get_slice(name)[place.positions] for name in Coded._fields[:-1])
            kept = unpack(Coded(*per_position, place.shard.get_slice("body")[place.body]), self.sample)
            if kept.counts.max(initial=0) > self.top_k:
                raise ValueError("more tokens than a position keeps")
        except (ValueError, SafetensorError) as error:
            raise UserError(
                f"the shard's code is broken: {error}", where=str(place.path), fix="delete it and run the stage again"
            ) from error
        if self.sample is not None:
            tokens = self._in_students(self._filled(kept, kept.tokens, 0))
            weight = self._filled(kept, kept.stands_for, 0.0)
            return Sampled(*map(torch.from_numpy, (tokens, weight, kept.extra)))
        tokens = self._in_students(self._filled(kept, kept.tokens, NO_TOKEN))
        log_p = self._filled(kept, np.log(kept.stands_for), LOG_ZERO)
        return TopK(*map(torch.from_numpy, (tokens, log_p, kept.rest)))

    def _filled(self, kept: Kept, values: np.ndarray, fill: float) -> np.ndarray:
        """Values of the tokens as [p, k], with `fill` where a position has fewer."""
        table = np.full((len(kept.counts), self.top_k), fill, values.dtype)
        table[np.arange(self.top_k) < kept.counts[:, None]] = values
        return table

    def _in_students(self, tokens: np.ndarray) -> np.ndarray:
        """Ids of a trimmed vocabulary, where the student has one."""
        if self._to is None:
            return tokens
        # Ids that are beyond the full vocabulary (padding, no token at all) stay beyond.
        known = np.where(tokens < len(self._to), self._to[np.minimum(tokens, len(self._to) - 1)], -1)
        return np.where(known >= 0, known, len(self._to) + tokens)
