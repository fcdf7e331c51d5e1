"""The best type for each tensor under a budget of bytes, and where it matters of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distill2edge.errors import UserError

Options = Mapping[str, Mapping[str, tuple[int, float]]]
"""Tensor -> type -> (bytes, expected loss of fidelity in nats per token)."""


_DOUBLINGS, _HALVINGS = 20, 30  # of the price of time: until the mix is fast enough, and then to the least such price


@dataclass(frozen=True)
class Pace:
    """How long a step may take.

    Attributes:
        times: tensor -> type -> time of its product; a tensor that no product reads is in none.
        limit: the time of a mix at most.
    """

    times: Mapping[str, Mapping[str, float]]
    limit: float

    def of(self, types: Mapping[str, str]) -> float:
        """The time of a mix."""
        return sum(kinds[types[name]] for name, kinds in self.times.items() if name in types)

    def kept_by(self, types: Mapping[str, str]) -> bool:
        """Whether a mix is fast enough."""
        return self.of(types) <= self.limit

    def priced(self, options: Options, price: float) -> Options:
        """The same options, whose loss holds their time; `price`: of the whole limit."""
        each = price / self.limit if self.limit else 0.0
        return {
            name: {kind: (size, loss + each * self.times.get(name, {}).get(kind, 0.0))
                   for kind, (size, loss) in kinds.items()}
            for name, kinds in options.items()
        }  # fmt: skip


def choose(options: Options, budget: int, pace: Pace | None = None) -> dict[str, str]:
    """Types whose losses add up to the least found within the budget.

    Each tensor starts at its smallest type; the upgrade that saves most loss for each byte is taken until none fits
    (the greedy of the multiple-choice knapsack on the convex hull of each tensor's options), then single exchanges
    and pairs of one upgrade and one downgrade are tried until none helps. Where that is too slow, time gets a price
    (a Lagrange multiplier): the least at which the mix is fast enough.

    Args:
        pace: how long it may take; where no mix within the budget is fast enough, the fastest found.

    Raises:
        UserError: the smallest types together exceed the budget.
    """
    chosen = _exchange(options, *_greedy(options, budget))
    if pace is None or pace.kept_by(chosen):
        return chosen

    def at(price: float) -> tuple[dict[str, str], int]:
        return _greedy(pace.priced(options, price), budget)

    low, high = 0.0, sum(max(loss for _, loss in kinds.values()) for kinds in options.values()) or 1.0
    for _ in range(_DOUBLINGS):
        if pace.kept_by(at(high)[0]):
            break
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if pace.kept_by(at(middle)[0]) else (middle, high)
    return at(high)[0]


def _greedy(options: Options, budget: int) -> tuple[dict[str, str], int]:
    """Types by upgrades alone, and the bytes that are left."""
    hulls = {name: hull(kinds) for name, kinds in options.items()}
    at = dict.fromkeys(hulls, 0)
    size = sum(points[0][1] for points in hulls.values())
    if size > budget:
        raise UserError(f"the smallest types need {size:,} bytes, {budget:,} are allowed",
                        fix=f"raise the budget to {size:,} bytes")  # fmt: skip
    while True:
        best, gain = None, 0.0
        for name, points in hulls.items():
            if at[name] + 1 < len(points):
                here, there = points[at[name]], points[at[name] + 1]
                rate = (here[2] - there[2]) / (there[1] - here[1])
                if size + there[1] - here[1] <= budget and rate > gain:
                    best, gain = name, rate
        if best is None:
            break
        size += hulls[best][at[best] + 1][1] - hulls[best][at[best]][1]
        at[best] += 1
    return {name: points[at[name]][0] for name, points in hulls.items()}, budget - size


def hull(kinds: Mapping[str, tuple[int, float]]) -> list[tuple[str, int, float]]:
    """(type, bytes, loss) of the options on the lower convex hull, from small to large."""
    found: list[tuple[str, int, float]] = []
    for name, (size, loss) in sorted(kinds.items(), key=lambda item: item[1]):
        if found and loss >= found[-1][2]:
            continue
        if found and size == found[-1][1]:
            found.pop()
        while len(found) > 1:
            (_, b0, l0), (_, b1, l1) = found[-2:]
            if (l0 - l1) * (size - b1) > (l1 - loss) * (b1 - b0):
                break
            found.pop()
        found.append((name, size, loss))
    return found


def _exchange(options: Options, chosen: dict[str, str], spare: int) -> dict[str, str]:
    """Swap types of one tensor, or of two at once, while that lowers the loss within the bytes left."""
    while True:
        moves = []
        for name, kinds in options.items():
            size, loss = kinds[chosen[name]]
            moves += [(s - size, q - loss, name, kind) for kind, (s, q) in kinds.items() if kind != chosen[name]]
        better = min((m for m in moves if m[1] < 0 and m[0] <= spare), key=lambda m: m[1], default=None)
        best: list[tuple[int, float, str, str]] = [better] if better else []
        total = better[1] if better else 0.0
        # The gains are few: a pair needs one of them.
        for first in sorted((m for m in moves if m[1] < 0), key=lambda m: m[1])[:64]:
            for second in moves:
                if second[2] != first[2] and first[0] + second[0] <= spare and first[1] + second[1] < total - 1e-12:
                    best, total = [first, second], first[1] + second[1]
        if not best:
            return chosen
        for size, _, name, kind in best:
            chosen[name] = kind
            spare -= size
