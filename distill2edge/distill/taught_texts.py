"""Texts to train an encoder on, each with what its teacher says of it; and their batches."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.distill.label_cache import TextReader


class TaughtTexts(Dataset[dict[str, Any]]):
    """Texts and a cache of what the teacher says of them. A subclass says what an item is.

    Attributes:
        lengths: tokens of each, by which batches are made.
    """

    def __init__(self, rows: Sequence[Encoded], signal: TextReader | None) -> None:
        """Check every text.

        Raises:
            UserError: no texts, or one that the cache does not have.
        """
        if not rows:
            raise UserError("there is nothing to train on", where="data", fix="check data.splits")
        if signal is not None and (missing := signal.missing(row.id for row in rows)):
            raise UserError(
                f"{len(missing)} of {len(rows)} texts are not in the signal cache",
                where=str(signal.directory),
                fix="build the cache from these rows",
            )
        self.rows, self.signal = rows, signal
        self.lengths = array("i", (len(row.ids) for row in rows))

    def __len__(self) -> int:
        return len(self.rows)


def collate_texts(items: Sequence[dict[str, Any]], pad: int, taught: str = "") -> dict[str, Tensor]:
    """Pad on the right, to the longest of the batch.

    Args:
        taught: key of what the teacher says, of items that have it.

    Returns:
        input_ids, attention_mask [B, L] int64; labels [B]; [B, ...] under `taught`; token_type_ids [B, L] where an item
        has `types`.
    """
    length = max(len(item["ids"]) for item in items)
    ids = torch.full((len(items), length), pad, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    for row, item in enumerate(items):
        ids[row, : len(item["ids"])] = torch.tensor(item["ids"])
        attention[row, : len(item["ids"])] = 1
    batch = {"input_ids": ids, "attention_mask": attention, "labels": torch.tensor([item["label"] for item in items])}
    if any(item.get("types") is not None for item in items):
        batch["token_type_ids"] = segments_of(items, length)
    return {**batch, taught: torch.stack([item[taught] for item in items])} if taught in items[0] else batch


def segments_of(items: Sequence[dict[str, Any]], length: int) -> Tensor:
    """[B, L] int64: the segment ids of items with `types` (None: all 0), padded on the right with 0."""
    segments = torch.zeros(len(items), length, dtype=torch.int64)
    for row, item in enumerate(items):
        if (types := item.get("types")) is not None:
            segments[row, : len(types)] = torch.tensor(types)
    return segments
