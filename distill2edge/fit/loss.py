"""An expected loss that ranks students before one is trained: a documented proxy, never a measurement.

It is a sum of terms, each of which grows with what is taken away, in nats per token of an untrained student of
SmolLM2-135M. Widths: -ln(share kept) times what ADR 35 measured for each (two of three groups .617, 1,024 of 1,536
channels .979, 480 of 576 hidden channels 1.14). Depth: what both widths of the layers that go would cost. Rounding: the
squared error of each type on Gaussian rows, by ggml's own quantizer, times what the same model lost in Q4_0 (.419).
Training takes most of the first part back, and how much depends on the data: the order is what it is for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from distill2edge.fit.decoder import Decoder
from distill2edge.fit.sizes import Stored
from distill2edge.models.widths import NAMES

LABEL = "loss (proxy)"
_WIDTH: Mapping[str, float] = {"kv_groups": 1.52, "feed_forward": 2.42, "hidden": 6.25}
_DEPTH = _WIDTH["kv_groups"] + _WIDTH["feed_forward"]
_TRIMMED = 0.02
"""Of a vocabulary of the training rows' tokens: others are written in pieces. An assumption."""
_CACHE = 0.25
"""Keys and values count as a quarter of the weights. An assumption."""
_ROUNDED_Q4_0 = 0.419


def loss(whole: Decoder, student: Decoder, file: Stored, cache: str) -> float:
    """The proxy, in nats per token of an untrained student; 0 of the teacher itself in full precision."""
    pruned = -_DEPTH * math.log(student.layers / whole.layers)
    for name in NAMES:
        pruned -= _WIDTH[name] * math.log(getattr(student.widths, name) / getattr(whole.widths, name))
    words = _TRIMMED if student.vocabulary < whole.vocabulary else 0.0
    return pruned + words + _rounded(file) + _CACHE * _per_error() * error(cache.upper())


def _rounded(file: Stored) -> float:
    weights = dict(file.body)
    weights[file.head[0]] = weights.get(file.head[0], 0) + file.head[1]
    return _per_error() * sum(error(kind) * count for kind, count in weights.items()) / sum(weights.values())


@lru_cache(maxsize=1)
def _per_error() -> float:
    return _ROUNDED_Q4_0 / error("Q4_0")


@lru_cache(maxsize=64)
def error(kind: str) -> float:
    """Squared error of a type over the square of the weights, on Gaussian rows."""
    if kind in ("F32", "F16", "BF16"):
        return {"F32": 0.0, "F16": 2.0**-24, "BF16": 2.0**-18}[kind]  # half of the last bit, squared, over three
    import numpy as np

    from distill2edge.quantize import ggml

    rows = np.random.default_rng(0).standard_normal((64, 512), dtype=np.float32)
    found = ggml.dequantize(ggml.quantize(rows, kind), kind, rows.shape[1])
    return float(((found - rows) ** 2).sum() / (rows**2).sum())
