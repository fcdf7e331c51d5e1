"""Which layers a recipe chooses, as far as numbers say: no weights, no torch."""

from __future__ import annotations

from collections.abc import Sequence

from distill2edge.errors import UserError

WHERE = "student.init.layers"


def evenly(total: int, count: int) -> list[int]:
    """`count` of `total` layers, evenly spaced, first and last among them (one layer: the first)."""
    if count == 1:
        return [0]
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


def check_layers(layers: int | Sequence[int], total: int, owner: str = "the teacher") -> None:
    """Refuse a count or a list that their owner does not have.

    Raises:
        UserError: none, too many, out of range, twice, or out of order.
    """
    span = f"{owner} has {total} layers"
    if isinstance(layers, int):
        if not 1 <= layers <= total:
            raise UserError(f"{layers} layers: {span}", where=WHERE, fix=f"give a number from 1 to {total}")
        return
    if not layers:
        raise UserError("no layer is chosen", where=WHERE, fix=f"{span}, 0 to {total - 1}: list some")
    if wrong := [layer for layer in layers if not 0 <= layer < total]:
        raise UserError(f"layer {wrong[0]} is out of range: {span}", where=WHERE, fix=f"use 0 to {total - 1}")
    if list(layers) != sorted(set(layers)):
        raise UserError("layers must ascend, each once", where=WHERE, fix=f"write {sorted(set(layers))}")


def chosen(layers: int | Sequence[int], total: int, select: str = "even") -> list[int]:
    """The layers that are taken of `total`: those listed, the first, or evenly spaced ones.

    Args:
        select: `first`, or anything else for even; `similarity` is measured (`layers.by_similarity`).

    Raises:
        UserError: as `check_layers`.
    """
    check_layers(layers, total)
    if not isinstance(layers, int):
        return list(layers)
    return list(range(layers)) if select == "first" else evenly(total, layers)
