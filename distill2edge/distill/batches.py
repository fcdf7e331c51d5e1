"""Encoded examples to batches: padding, masks, the teacher's signal, and an order that wastes little padding."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from distill2edge.distill.logit_cache import SignalReader
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded

IGNORED = -100
"""Label of a token that is not supervised."""

Collator = Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]
"""Examples -> a padded batch."""

WIDTH = 512
"""Tokens of a sequence of packed rows, where none is longer: attention costs little up to there."""

_POOL = 50  # batches whose rows are sorted by length together


class Examples(Dataset[dict[str, Any]]):
    """Examples, each with its teacher signal where there is a cache."""

    def __init__(self, rows: Sequence[Encoded], signal: SignalReader | None) -> None:
        """Check every example against the cache.

        Raises:
            UserError: no examples, one without supervised tokens, or one that the cache does not have.
        """
        if not rows:
            raise UserError("there is nothing to train on", where="data", fix="check data.splits and data.max_length")
        for row in rows:
            if len(row.ids) != len(row.mask) or not any(row.mask) or row.mask[0]:
                raise UserError(f"example {row.id} supervises no token, or its first", fix="encode the rows again")
        if signal is not None:
            missing = signal.missing(row.id for row in rows)
            if missing:
                raise UserError(
                    f"{len(missing)} of {len(rows)} examples are not in the logit cache",
                    where=str(signal.directory),
                    fix="build the cache from these rows, with the student's tokenizer, template and max_length",
                )
            if wrong := [row.id for row in rows if signal.positions(row.id) != sum(row.mask)]:
                raise UserError(
                    f"the cache and the masks of {len(wrong)} examples differ in their positions, first {wrong[0]}",
                    where=str(signal.directory),
                    fix="build the cache again",
                )
        self.rows, self.signal = rows, signal
        self.lengths = array("i", (len(row.ids) for row in rows))
        self.supervised = sum(sum(row.mask) for row in rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        item: dict[str, Any] = {"ids": row.ids, "mask": row.mask}
        if self.signal is not None:
            item["signal"] = self.signal.get(row.id)
        return item


def collate(items: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """Pad on the right.

    `labels[b, t]` is the token t where it is supervised, else `IGNORED`: decided by the mask alone, so an end token
    that is also the pad token stays supervised. Signals are concatenated over the batch, in the order of
    `(labels != IGNORED).nonzero()`.

    Returns:
        input_ids, attention_mask, labels [B, L] int64; with a signal also its fields (`losses.TopK`, `Sampled`).
    """
    length = max(len(item["ids"]) for item in items)
    ids = torch.full((len(items), length), pad, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for row, item in enumerate(items):
        count = len(item["ids"])
        tokens, mask = torch.tensor(item["ids"]), torch.tensor(item["mask"])
        ids[row, :count] = tokens
        attention[row, :count] = 1
        labels[row, :count] = torch.where(mask, tokens, IGNORED)
    return {"input_ids": ids, "attention_mask": attention, "labels": labels, **signals_of(items)}


def signals_of(items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """The rows' signals, one after another; nothing where they have none."""
    if "signal" not in items[0]:
        return {}
    names = items[0]["signal"]._fields
    return {name: torch.cat([getattr(item["signal"], name) for item in items]) for name in names}


def collate_packed(items: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """Lay rows one after another into sequences of no more than `WIDTH` tokens, or of the longest row's.

    The positions of each row start anew at 0, by which the attention keeps rows apart; what fills the end of a sequence
    is a row of its own.

    Returns:
        as `collate`, the signals in the order of the rows as they are laid; and position_ids [B, L] int64.
    """
    bins = _laid([len(item["ids"]) for item in items])
    laid = [[items[number] for number in row] for row in bins]
    joined = [
        {"ids": [t for item in row for t in item["ids"]], "mask": [on for item in row for on in item["mask"]]}
        for row in laid
    ]
    batch = collate(joined, pad)
    length = batch["input_ids"].shape[1]
    positions = []
    for row in laid:
        own = [position for item in row for position in range(len(item["ids"]))]
        positions.append(own + list(range(length - len(own))))
    batch["position_ids"] = torch.tensor(positions)
    return batch | signals_of([item for row in laid for item in row])


def _laid(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the rows in each sequence: the longest first, each into the first sequence with room."""
    width = max(WIDTH, *lengths)
    bins: list[list[int]] = []
    left: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        at = next((index for index, room in enumerate(left) if room >= lengths[number]), len(bins))
        if at == len(bins):
            bins.append([])
            left.append(width)
        bins[at].append(number)
        left[at] -= lengths[number]
    return bins


def supervised(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where the supervised tokens are predicted, and what they are.

    Args:
        labels: [B, L] with `IGNORED`; its first column is never supervised.

    Returns:
        positions: [P] into a flattened [B * L]: token t of row b is predicted at b L + t - 1.
        targets: [P] token ids.
    """
    where = (labels.reshape(-1) != IGNORED).nonzero().squeeze(-1)
    return where - 1, labels.reshape(-1)[where]


class LengthGrouped(Sampler[int]):
    """A shuffle whose batches hold rows of similar length, so that padding wastes little.

    The order depends on the seed and the epoch alone, so a resumed run and every process of a parallel one agree.
    """

    def __init__(
        self, lengths: Sequence[int], batch: int, seed: int, epoch: Callable[[], int], *, grouped: bool = True
    ) -> None:
        """`batch`: rows per step over all processes; `epoch`: asked at each start; not `grouped`: a mere shuffle."""
        self.lengths, self.batch, self.seed, self.epoch, self.grouped = lengths, batch, seed, epoch, grouped

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch())
        order = torch.randperm(len(self.lengths), generator=generator).to(torch.int32).numpy()
        if not self.grouped:
            yield from map(int, order)
            return
        # The rows that fill no batch come last, or they would shift the batches after them.
        full = len(order) - len(order) % self.batch
        pool = self.batch * _POOL
        for begin in range(0, full, pool):
            part = order[begin : min(begin + pool, full)]
            part[:] = sorted(part.tolist(), key=lambda row: -self.lengths[row])
        for number in map(int, torch.randperm(full // self.batch, generator=generator)):
            yield from order[number * self.batch : (number + 1) * self.batch].tolist()
        yield from order[full:].tolist()
