"""The expected loss of a student that is not trained yet: KL to the teacher in nats per token, as it is pruned.

It is linear in what is taken away, as `student/influence.py` measured it on the teacher and its calibration rows:

    depth          -ln of the share of block influence that the kept layers hold
    kv_groups      -ln of the share of the activations that the kept heads hold, mean over the kept layers
    feed_forward   the same of channels
    hidden         the same of the residual stream
    types          Fisher information times squared error of each matrix in its type, by the share of it that is kept

and what keys and values cost in fewer bits. `WEIGHTS` are those that eight pruned students of SmolLM2-135M gave,
untrained, and its file in Q4_0 (docs/log.md, 2026-11-30). Short trainings have not confirmed the order yet:
benchmarks/results/fit_loss.json. So it ranks, and `fit --train` measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from distill2edge.fit.decoder import Decoder, Part, count_of
from distill2edge.fit.sizes import Kinds
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.gguf.mixtures import EMBEDDING, HEAD
from distill2edge.models.widths import NAMES, Widths
from distill2edge.quantize.sensitivity import left_of
from distill2edge.student.chosen import chosen
from distill2edge.student.influence import Influence

LABEL = "expected KL"
WEIGHTS: Mapping[str, float] = {"depth": 11.9, "kv_groups": 2.1, "feed_forward": 3.9, "hidden": 6.8, "types": 1.24}
CACHE: Mapping[str, float] = {"f16": 0.0, "q8_0": 0.0029, "q4_0": 0.025}
"""Nats per token of keys and values in a type: SmolLM2-135M in Q8_0 (docs/log.md)."""


class Estimate:
    """The expected loss of a teacher's students.

    Args:
        whole: the teacher.
        found: what its parts do.
        select: as `student.init.select` of the recipe that will be written.
    """

    def __init__(self, whole: Decoder, found: Influence, select: str = "even") -> None:
        self._whole, self._found, self._select = whole, found, select
        self._parts = {part.role: part for part in (*whole.top, *whole.layer)}
        self._costs: dict[tuple[str, str, int], float] = {}
        self._pruned: dict[tuple[int, Widths], float] = {}

    def pruned(self, student: Decoder) -> float:
        """What fewer and narrower layers cost, in nats per token."""
        key = (student.layers, student.widths)
        if key not in self._pruned:
            self._pruned[key] = sum(WEIGHTS[name] * value for name, value in self.shares(student).items())
        return self._pruned[key]

    def stored(self, student: Decoder, kinds: Mapping[str, Kinds], *, mix: bool = False) -> float:
        """What the types of its matrices cost, in nats per token; those of keys and values are in `CACHE`.

        Args:
            kinds: as `sizes.kinds_of`.
            mix: the errors of rounding are compensated, as in every mix.
        """
        return WEIGHTS["types"] * self.rounded(student, kinds, mix=mix)

    def shares(self, student: Decoder) -> dict[str, float]:
        """Name of a weight -> what it is multiplied with, of the student's shape."""
        kept, blocks = self.kept(student.layers), self._found.blocks
        found = {"depth": -math.log(sum(blocks[layer] for layer in kept) / sum(blocks))}
        for name in NAMES:
            whole, narrow = (int(getattr(each, name)) for each in (self._whole.widths, student.widths))
            held = [1.0] if narrow == whole else [self._found.share(name, narrow, layer) for layer in kept]
            found[name] = -math.log(sum(held) / len(held))
        return found

    def rounded(self, student: Decoder, kinds: Mapping[str, Kinds], *, mix: bool = False) -> float:
        """What its types cost by Fisher information; arguments as of `stored`."""
        kept = self.kept(student.layers)
        total = 0.0
        for part in (*student.top, *student.layer):
            for kind, layer in zip(kinds.get(part.role, ()), kept, strict=False):  # outside the layers there is one
                total += self.held(part) * self.cost(part.role, kind, layer) * (left_of(kind) if mix else 1.0)
        return total

    def cost(self, role: str, kind: str, layer: int) -> float:
        """Of the teacher's whole matrix in a type."""
        key = (role, kind, layer)
        if key not in self._costs:
            self._costs[key] = self._cost(*key)
        return self._costs[key]

    def _cost(self, role: str, kind: str, layer: int) -> float:
        if GGML_TYPES[kind].precision == "lossless":
            return 0.0
        tried = self._found.types[role]
        near = kind if kind in tried else min(tried, key=lambda other: abs(math.log(error(other) / error(kind))))
        if GGML_TYPES[near].precision == "lossless":
            return 0.0
        of = tried[near]
        return of[min(layer, len(of) - 1)] * error(kind) / error(near)

    def held(self, part: Part) -> float:
        """Share of the teacher's matrix that a student has; of a vocabulary it keeps the tokens that are used."""
        whole = self._parts[part.role]
        if part.role in (EMBEDDING, HEAD):
            return part.shape[-1] / whole.shape[-1]
        return count_of(part.shape) / count_of(whole.shape)

    def kept(self, layers: int) -> list[int]:
        """The teacher's layers that a student of so many has."""
        return chosen(layers, self._whole.layers, self._select)


@lru_cache(maxsize=64)
def error(kind: str) -> float:
    """Squared error of a type over the square of the weights, on Gaussian rows."""
    if kind in ("F32", "F16", "BF16"):
        return {"F32": 2.0**-50, "F16": 2.0**-24, "BF16": 2.0**-18}[kind]  # half of the last bit, squared, over three
    import numpy as np

    from distill2edge.quantize import ggml

    rows = np.random.default_rng(0).standard_normal((64, 512), dtype=np.float32)
    found = ggml.dequantize(ggml.quantize(rows, kind), kind, rows.shape[1])
    return float(((found - rows) ** 2).sum() / (rows**2).sum())
