"""Rows in the tokens of a trimmed vocabulary, and the same rows in those of the full one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from distill2edge.data.examples import Encoded, example_id

if TYPE_CHECKING:
    from distill2edge.models.id_map import IdMap


def named_in_full(rows: Sequence[Encoded], ids: IdMap) -> list[Encoded]:
    """Rows in trimmed tokens under the ids that they have in full ones: a signal is kept by those."""
    return [replace(row, id=example_id(ids.to_old(row.ids), row.mask)) for row in rows]


def in_full(rows: Sequence[Encoded], ids: IdMap) -> list[Encoded]:
    """Rows in trimmed tokens, in full ones: as a model with the full vocabulary reads them."""
    return [replace(row, ids=ids.to_old(row.ids)) for row in named_in_full(rows, ids)]


def same_rows(ours: Sequence[Encoded], theirs: Sequence[Encoded], ids: IdMap | None) -> list[bool]:
    """Which rows two models read in the same tokens; `ids`: of the first, where its vocabulary was trimmed."""
    return [
        (list(a.ids) if ids is None else ids.to_old(a.ids)) == list(b.ids) and list(a.mask) == list(b.mask)
        for a, b in zip(ours, theirs, strict=True)
    ]
