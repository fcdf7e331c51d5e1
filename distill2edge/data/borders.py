"""Two tokenizations of one text: where both have a border, and what stands between two of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from distill2edge.data.examples import Encoded
from distill2edge.data.spelling import Spelling


class Match(NamedTuple):
    """A supervised token of the student that begins where one of the teacher's does.

    What follows up to the next border of both is one token on at least one side: the student's is the teacher's token,
    its first part, or several of the teacher's in one.

    Attributes:
        position: which of the student's supervised tokens, from 0.
        token: its id.
        first: which of the teacher's supervised tokens begins there.
        spelt: ids of the teacher's tokens from there up to the border.
    """

    position: int
    token: int
    first: int
    spelt: tuple[int, ...]


def matches(student: Encoded, teacher: Encoded, ours: Spelling, theirs: Spelling) -> list[Match]:
    """The student's supervised tokens that the teacher's distribution can be compared at.

    Each run of supervised tokens (an answer) is laid beside the other's from its end, since a leading space or a first
    token may be supervised on one side alone; as far back as both spell the same bytes.

    Args:
        ours, theirs: spelling of the student's and of the teacher's tokens.
    """
    found: list[Match] = []
    for (start, run), (begin, other) in zip(_runs(student), _runs(teacher), strict=False):
        mine, its = _borders(run, ours), _borders(other, theirs)
        same = _common_end(ours.text(run), theirs.text(other))
        place = {distance: index for index, distance in enumerate(its) if distance <= same}
        common = [(index, place[distance]) for index, distance in enumerate(mine) if distance in place]
        for (index, at), (next_index, next_at) in pairwise(common):
            if min(next_index - index, next_at - at) == 1:
                found.append(Match(start + index, run[index], begin + at, tuple(other[at:next_at])))
    return found


def _runs(example: Encoded) -> Iterator[tuple[int, list[int]]]:
    """Runs of supervised tokens, each with the count of those before it."""
    run: list[int] = []
    seen = 0
    for index, supervised in zip(example.ids, example.mask, strict=True):
        if supervised:
            run.append(index)
        elif run:
            yield seen, run
            seen, run = seen + len(run), []
    if run:
        yield seen, run


def _borders(run: Sequence[int], spelling: Spelling) -> list[int]:
    """Bytes from each border of the tokens to the end; the last is 0."""
    distances = [0]
    for index in reversed(run):
        distances.append(distances[-1] + len(spelling.tokens[index]))
    return distances[::-1]


def _common_end(a: bytes, b: bytes) -> int:
    """Count of the bytes that both end with."""
    pairs = zip(reversed(a), reversed(b), strict=False)
    return next((n for n, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
