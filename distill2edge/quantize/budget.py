"""The smallest mix of types whose measured KL is under a limit: the expected KL proposes, measurements decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from distill2edge.errors import UserError
from distill2edge.quantize.allocation import Options, Pace, choose, hull

TRIES = 8
"""Mixes that are measured at most."""
CLOSE = 0.005
"""Share of the bytes from which on a smaller mix is no longer looked for."""


@dataclass(frozen=True)
class Candidate:
    """A mix that was measured.

    Attributes:
        types: tensor -> type.
        bytes: of these tensors.
        expected: KL from Fisher information, nats per token.
        kl: measured, nats per token.
    """

    types: Mapping[str, str]
    bytes: int
    expected: float
    kl: float


def smallest_bytes(options: Options) -> int:
    """Bytes of the smallest types together."""
    return sum(min(size for size, _ in kinds.values()) for kinds in options.values())


def best_types(options: Options) -> dict[str, str]:
    """The type of the least expected KL of each tensor; the smaller of two alike."""
    return {
        name: min(kinds, key=lambda kind, kinds=kinds: (kinds[kind][1], kinds[kind][0]))
        for name, kinds in options.items()
    }


def bytes_of(options: Options, types: Mapping[str, str]) -> int:
    """Bytes of a mix."""
    return sum(options[name][kind][0] for name, kind in types.items())


def expected_kl(options: Options, types: Mapping[str, str]) -> float:
    """Expected KL of a mix: the sum over its tensors."""
    return sum(options[name][kind][1] for name, kind in types.items())


def frontier(options: Options) -> list[tuple[int, float]]:
    """(bytes, expected KL) from the smallest types to the best, by the upgrade that saves most KL for each byte."""
    hulls = {name: hull(kinds) for name, kinds in options.items()}
    size, loss = (sum(points[0][part] for points in hulls.values()) for part in (1, 2))
    steps = [
        ((here[2] - there[2]) / (there[1] - here[1]), there[1] - here[1], here[2] - there[2])
        for points in hulls.values()
        for here, there in pairwise(points)
    ]
    found = [(int(size), float(loss))]
    for _, more, less in sorted(steps, reverse=True):  # a hull's own steps come in their order: it is convex
        found.append((found[-1][0] + more, max(0.0, found[-1][1] - less)))
    return found


def smallest_under(
    options: Options,
    max_kl: float,
    measure: Callable[[Mapping[str, str]], float],
    overhead: int = 0,
    pace: Pace | None = None,
) -> tuple[Candidate, list[Candidate]]:
    """The smallest mix found whose measured KL is at most `max_kl`, and all that was measured.

    Each measurement gives a ratio of measured to expected KL, and with it the next guess between the largest mix that
    failed and the smallest that passed.

    Args:
        measure: types -> KL in nats per token.
        overhead: bytes of the file beside these tensors, for the message.
        pace: as `allocation.choose`; where only the best types pass, they are taken whatever time they need.

    Raises:
        UserError: not even the best types pass; names their KL and size.
    """
    points = frontier(options)
    last = len(points) - 1
    tried: list[Candidate] = []
    failed, passed = -1, last + 1
    best: Candidate | None = None
    index = _at_most(points, max_kl)
    while len(tried) < TRIES:
        types = best_types(options) if index == last else choose(options, points[index][0], pace)
        candidate = Candidate(types, bytes_of(options, types), expected_kl(options, types), measure(types))
        tried.append(candidate)
        if candidate.kl <= max_kl:
            passed = index
            if best is None or candidate.bytes < best.bytes:
                best = candidate
        else:
            failed = index
        if failed == last:
            raise _nothing(max_kl, tried, overhead)
        if passed - failed <= 1 or (
            passed <= last and failed >= 0 and points[passed][0] - points[failed][0] <= CLOSE * points[passed][0]
        ):
            break
        ratio = candidate.kl / candidate.expected if candidate.expected > 0 else 1.0
        guess = _at_most(points, 0.98 * max_kl / ratio) if ratio > 0 else 0
        index = guess if failed < guess < passed else _between(points, failed, passed)
    if best is None:  # the guesses ran out below: the best types decide
        types = best_types(options)
        best = Candidate(types, bytes_of(options, types), expected_kl(options, types), measure(types))
        tried.append(best)
        if best.kl > max_kl:
            raise _nothing(max_kl, tried, overhead)
    return best, tried


def _at_most(points: list[tuple[int, float]], loss: float) -> int:
    return next((index for index, point in enumerate(points) if point[1] <= loss), len(points) - 1)


def _between(points: list[tuple[int, float]], failed: int, passed: int) -> int:
    """An index strictly between, at the middle of the bytes; the last one while nothing passed and few are left."""
    low = points[max(failed, 0)][0]
    high = points[min(passed, len(points) - 1)][0]
    middle = (low + high) / 2
    inner = range(failed + 1, passed)
    return min(inner, key=lambda index: abs(points[index][0] - middle))


def _nothing(max_kl: float, tried: list[Candidate], overhead: int) -> UserError:
    nearest = min(tried, key=lambda candidate: candidate.kl)
    return UserError(
        f"no mix of types has a KL of at most {max_kl:g} nats per token: the nearest has {nearest.kl:.3g}, a file of "
        f"{nearest.bytes + overhead:,} bytes",
        where="export",
        fix=f"raise max_kl to {nearest.kl * 1.05:.2g}, or export gguf:F16",
    )
