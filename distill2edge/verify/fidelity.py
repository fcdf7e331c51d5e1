"""Distance of a file's distributions from a reference's: KL, top-1 agreement, on the same positions."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from distill2edge.errors import EnvironmentFault
from distill2edge.util.quantities import readable_bytes

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.verify.scores import Floats

_CHUNK = 32  # positions whose float64 copies are in memory at once


@dataclass(frozen=True)
class Span:
    """The positions of one row that are compared.

    Attributes:
        row: index of the row.
        positions: t - 1 for every compared token t, ascending: what predicts it.
        start: index of the first one in the reference file.
    """

    row: int
    positions: list[int]
    start: int


def choose_positions(
    rows: Sequence[Encoded], max_tokens: int, which: Literal["supervised", "all"] = "supervised"
) -> list[Span]:
    """The positions to compare: whole rows in order until `max_tokens`; the last row may be cut.

    Args:
        rows: held-out rows.
        max_tokens: cap on positions over all rows.
        which: `supervised` tokens, or `all` but the first of each row.
    """
    spans: list[Span] = []
    total = 0
    for index, row in enumerate(rows):
        if total >= max_tokens:
            break
        tokens = [t for t in range(1, len(row.ids)) if which == "all" or row.mask[t]]
        positions = [t - 1 for t in tokens[: max_tokens - total]]
        spans.append(Span(index, positions, total))
        total += len(positions)
    return spans


def count_positions(spans: Sequence[Span]) -> int:
    """Compared positions over all rows."""
    return sum(len(span.positions) for span in spans)


def create_reference(path: Path, positions: int, vocabulary: int) -> np.memmap:
    """A file of [positions, vocabulary] float32 log-probabilities to fill.

    Raises:
        EnvironmentFault: the disk has no room for it.
    """
    need = positions * vocabulary * 4
    free = shutil.disk_usage(path.parent).free
    if need > free:
        raise EnvironmentFault(
            f"{readable_bytes(need)} are needed to compare {positions} positions, {readable_bytes(free)} are free",
            where=str(path.parent),
            fix="free disk space, or lower verify.max_tokens",
        )
    return np.memmap(path, dtype=np.float32, mode="w+", shape=(positions, vocabulary))


def open_reference(path: Path, positions: int) -> Floats:
    """The filled file, read-only, as [positions, V]."""
    flat = np.memmap(path, dtype=np.float32, mode="r")
    return flat.reshape(positions, -1)


def kl_divergence(reference: Floats, logprob: Floats) -> NDArray[np.float64]:
    """KL(reference || file) in nats at each position, summed in float64.

    Args:
        reference: [n, V] log-probabilities.
        logprob: [n, W] log-probabilities of the file. W may differ from V by padding alone, which no tokenizer names:
            where V is the longer one, the reference is taken given that it names one of the W.
    """
    width = min(reference.shape[1], logprob.shape[1])
    out = np.empty(len(reference))
    for start in range(0, len(reference), _CHUNK):
        p = np.asarray(reference[start : start + _CHUNK, :width], dtype=np.float64)
        q = logprob[start : start + _CHUNK, :width]
        if width < reference.shape[1]:
            p = p - np.logaddexp.reduce(p, axis=1, keepdims=True)
        weight = np.exp(p)
        out[start : start + _CHUNK] = (weight * (p - q)).sum(axis=1)
    # KL is never negative; the rounding of two nearly equal distributions is.
    return np.maximum(out, 0.0)


def agreement(reference: Floats, logprob: Floats, columns: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """Whether both put the same token first, at each position, as 0.0 or 1.0.

    Args:
        columns: of a file with fewer tokens: which of the reference's each is; one that the file lacks is never its.
    """
    first = logprob.argmax(axis=1)
    return np.asarray(reference.argmax(axis=1) == (first if columns is None else columns[first]), dtype=np.float64)


def among(reference: Floats, columns: NDArray[np.int64] | None) -> Floats:
    """The reference's distribution [n, W] given that it names one of the tokens in `columns`; [n, V] without."""
    if columns is None:
        return reference
    part = np.asarray(reference[:, columns], dtype=np.float64)
    return np.asarray(part - np.logaddexp.reduce(part, axis=1, keepdims=True), dtype=np.float32)
