"""The logit cache: the teacher's top-k log-probabilities of each example, in shards.

A shard is a safetensors file of n examples; P is the count of their supervised positions, ascending in an example:

    index    [P, k]   uint16, or int32 above 65,536 tokens
    logprob  [P, k]   float16, at temperature 1
    shift    [P]      float32, lse(z) / T - lse(z / T): log p_T = logprob / T + shift
    start    [n + 1]  int64, where each example's positions begin

with the metadata `ids` (JSON list of n example ids), `temperature` and `vocabulary` (a hash of token -> id). Examples
are found by id, never by number: a shuffle cannot misalign them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill2edge.distill.losses import TopK
from distill2edge.errors import UserError
from distill2edge.models.id_map import IdMap

TAIL_FLOOR = 2.0**-20
"""Least tail mass. float16 rounds a log-probability by up to 1 part in 2,048, so a smaller remainder is not known, and
a zero would make the reverse divergence infinite."""


class SignalReader:
    """A memory-mapped logit cache.

    Attributes:
        temperature: T of the log-probabilities it returns.
        vocabulary: hash of the teacher's token -> id.
        top_k: k.
    """

    def __init__(self, directory: Path) -> None:
        """Open every shard of the directory.

        Raises:
            UserError: no shard, an unreadable one, or shards of different settings.
        """
        from safetensors import SafetensorError, safe_open

        self.directory = Path(directory)
        paths = sorted(self.directory.glob("shard-*.safetensors"))
        if not paths:
            raise UserError(f"no logit cache in {self.directory}", fix="run the signal stage with signal.kind: logits")
        self._where: dict[str, tuple[Any, int, int]] = {}
        self._to: np.ndarray | None = None  # of a trimmed vocabulary: an id for each of the full one's, or -1
        settings: set[tuple[float, str, int]] = set()
        for path in paths:
            try:
                shard: Any = safe_open(path, framework="numpy")
                shard.__enter__()
                metadata = shard.metadata()
                ids = json.loads(metadata["ids"])
                start = shard.get_tensor("start")
                k = shard.get_slice("index").get_shape()[1]
                settings.add((float(metadata["temperature"]), metadata["vocabulary"], k))
            except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
                raise UserError(
                    f"not a shard of a logit cache: {error}", where=str(path), fix="delete it and run the signal stage"
                ) from error
            if len(start) != len(ids) + 1:
                raise UserError("the shard's index is broken", where=str(path), fix="delete it and run the stage again")
            for number, name in enumerate(ids):
                self._where[name] = (shard, int(start[number]), int(start[number + 1]))
        if len(settings) > 1:
            raise UserError(
                "shards of different temperature, k or vocabulary", where=str(self.directory), fix="rebuild the cache"
            )
        ((self.temperature, self.vocabulary, self.top_k),) = settings

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, example: str) -> bool:
        return example in self._where

    def trimmed(self, ids: IdMap) -> SignalReader:
        """The same cache for a student with fewer tokens: in its ids, examples under the names that they have here.

        A token that the student lacks gets an id beyond its vocabulary, which the losses count as the tail.
        """
        other = copy.copy(self)
        other._to = ids.old_to_new
        return other

    def missing(self, examples: Iterable[str]) -> list[str]:
        """Those of the examples that the cache does not have."""
        return [name for name in examples if name not in self._where]

    def positions(self, example: str) -> int:
        """How many supervised positions the cache has of an example."""
        _, begin, end = self._where[example]
        return end - begin

    def get(self, example: str) -> TopK:
        """The teacher at each supervised position of an example, in order, at the cache's temperature.

        Returns:
            tokens [p, k] int64, log_p [p, k] float32, log_tail [p] float32; their probabilities add up to 1.

        Raises:
            KeyError: the example is not in the cache.
        """
        shard, begin, end = self._where[example]
        tokens = shard.get_slice("index")[begin:end].astype(np.int64)
        if self._to is not None:
            # Ids that are beyond the full vocabulary (padding, no token at all) stay beyond.
            known = np.where(tokens < len(self._to), self._to[np.minimum(tokens, len(self._to) - 1)], -1)
            tokens = np.where(known >= 0, known, len(self._to) + tokens)
        log_p = shard.get_slice("logprob")[begin:end].astype(np.float32) / self.temperature
        log_p += shard.get_slice("shift")[begin:end].astype(np.float32)[:, None]
        kept = np.exp(log_p, dtype=np.float64).sum(-1)
        tail = np.maximum(1.0 - kept, TAIL_FLOOR)
        # Rounding can push the kept mass above what the tail leaves: scale to one.
        norm = np.log(kept + tail)
        log_p -= norm[:, None].astype(np.float32)
        log_tail = (np.log(tail) - norm).astype(np.float32)
        return TopK(torch.from_numpy(tokens), torch.from_numpy(log_p), torch.from_numpy(log_tail))
