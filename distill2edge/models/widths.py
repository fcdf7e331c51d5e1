"""How wide a decoder or an encoder is, and a narrower one of it: by its configuration, without its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Wanted = Mapping[str, int | float | None]
"""Name of a width -> how many to keep, or which share; None: all of it."""
BLOCK = 32
"""Weights of the smallest block that files and kernels work on: rows are a multiple of it."""
MEASURED_TOKENS = 8192
"""Calibration tokens on which the parts of a model are compared; rows beyond them are left out."""


class Widths(NamedTuple):
    """The widths of every layer, and what they are made of.

    Attributes:
        kv_groups: key-value heads, each with the query heads that share it.
        feed_forward: channels between the two products of a feed-forward block.
        hidden: of the residual stream.
        queries: query heads of a group.
        head: width of a head.
    """

    kv_groups: int
    feed_forward: int
    hidden: int
    queries: int
    head: int

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_groups * self.queries

    def columns(self, name: str) -> int:
        """Weights in a row of the matrices that read what this width sets."""
        return self.heads * self.head if name == "kv_groups" else int(getattr(self, name))

    def body(self, matrices: float) -> float:
        """Weights of a layer's matrices; `matrices`: of its feed-forward block, 3 where it is gated."""
        attention = 2 * self.hidden * self.head * (self.heads + self.kv_groups)
        return attention + matrices * self.hidden * self.feed_forward


NAMES = ("kv_groups", "feed_forward", "hidden")
FIELDS: Mapping[str, str] = {
    "kv_groups": "num_key_value_heads",
    "feed_forward": "intermediate_size",
    "hidden": "hidden_size",
}
"""The field of a `config.json` that holds each."""


def widths_of(config: Mapping[str, Any]) -> Widths | None:
    """The widths by a `config.json`; None where it does not say them, or says several."""
    hidden, heads, channels = (config.get(name) for name in ("hidden_size", "num_attention_heads", "intermediate_size"))
    if not isinstance(hidden, int) or not isinstance(heads, int) or not isinstance(channels, int):
        return None
    groups = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    if not isinstance(groups, int) or not isinstance(head, int) or heads % groups:
        return None
    return Widths(groups, channels, hidden, heads // groups, head)


def narrowed(whole: Widths, wanted: Wanted) -> Widths:
    """The widths that are asked for; a share becomes the nearest number that layers can have."""
    found = whole
    for name, value in _given(wanted):
        found = found._replace(**{name: value if isinstance(value, int) else _nearest(value, name, whole, found)})
    return found


def settings(whole: Widths, narrow: Widths) -> dict[str, int]:
    """The fields of a `config.json` that a narrower model has other values in."""
    found = {
        field: int(getattr(narrow, name))
        for name, field in FIELDS.items()
        if getattr(narrow, name) != getattr(whole, name)
    }
    if (narrow.heads, narrow.hidden) != (whole.heads, whole.hidden):
        found |= {"num_attention_heads": narrow.heads, "head_dim": narrow.head}
    return found


def problems(whole: Widths, wanted: Wanted, owner: str = "the teacher") -> Iterator[tuple[str, str, str]]:
    """Name, what is wrong and the fix of each width that cannot be had."""
    narrow = narrowed(whole, wanted)
    for name, _ in _given(wanted):
        count, total, step = getattr(narrow, name), getattr(whole, name), _step(name, narrow)
        if count > total:
            yield name, f"{count}: {owner} has {total}", f"give 1 to {total}, or a share such as 0.5"
        elif count % step and (count != total or name == "hidden"):
            least = (
                f"{BLOCK}, the block of files and kernels"
                if step == BLOCK or count % BLOCK
                else f"{narrow.heads} heads"
            )
            fits = " or ".join(map(str, _around(count, step, total)))
            yield name, f"{count} is no multiple of {least}", f"write {fits}" if fits else "keep other kv_groups"


def _nearest(share: float, name: str, whole: Widths, narrow: Widths) -> int:
    total, step = int(getattr(whole, name)), _step(name, narrow)
    return total if share == 1 else min(max(round(share * total / step), 1) * step, total)


def _step(name: str, narrow: Widths) -> int:
    """What a width must be a multiple of: transformers asks for a hidden size of whole numbers for each head."""
    return {"kv_groups": 1, "feed_forward": BLOCK, "hidden": math.lcm(BLOCK, narrow.heads)}[name]


def _given(wanted: Wanted) -> Iterator[tuple[str, int | float]]:
    """What is asked for, groups first: the heads say what the hidden size can be."""
    for name in NAMES:
        if (value := wanted.get(name)) is not None:
            yield name, value


def misfits(whole: Widths, wanted: Wanted, block: int) -> Iterator[tuple[str, int, list[int]]]:
    """Widths that are asked for and whose rows are no multiple of a type's block.

    Returns:
        name, weights in such a row, and the nearest values of that width that fit (perhaps none).
    """
    narrow = narrowed(whole, wanted)
    for name, _ in _given(wanted):
        count, columns = int(getattr(narrow, name)), narrow.columns(name)
        if columns % block == 0:
            continue
        each, step = columns // count, _step(name, narrow)
        fits = [value for value in range(step, int(getattr(whole, name)) + 1, step) if value * each % block == 0]
        below, above = ([value for value in fits if (value > count) is larger] for larger in (False, True))
        yield name, columns, [*below[-1:], *above[:1]]


def _around(count: int, step: int, total: int) -> list[int]:
    below = count // step * step
    return [value for value in (below, below + step) if 0 < value <= total]
