"""A sequence classifier whose forward pass is the distillation loss, and the batches it reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from distill2edge.distill.batches import Collator
from distill2edge.distill.losses import Objective, cross_entropy, distillation_loss
from distill2edge.distill.module import EncoderModule, LayerTeacher
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.data.encode import Encoded
    from distill2edge.distill.label_cache import LabelReader


class ClassifierModel(EncoderModule):
    """The student and its loss in one module.

    The loss of a text is `distillation_loss` of its class distribution, and the weighted terms on intermediate layers;
    that of a step is the mean over its texts.

    Attributes:
        student: a Hugging Face classifier, or a PEFT model around one.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        temperature: float,
        teacher: LayerTeacher | None,
        dtype: torch.dtype,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """As `EncoderModule`. `class_weights`: [C] of the terms on labels; None: all 1."""
        super().__init__(student, objective, teacher, dtype)
        self.temperature = temperature
        self._class_weights = None if class_weights is None else torch.tensor(class_weights)

    def collator(self) -> Collator:
        """Texts -> the batch that `forward` takes."""
        return partial(collate_texts, pad=self.pad)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        log_p: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            input_ids, attention_mask: [B, L].
            labels: [B] indices of the classes; -1 where a text has none.
            log_p: [B, C] the teacher's log-probabilities at the temperature, where a term compares them.
            num_items_in_batch: texts of the whole step, over all micro-batches and processes; None: this batch alone.

        Returns:
            loss: the sum over this batch / that count. sum, ce: undivided. count: of this batch.
        """
        out = self.read(input_ids, attention_mask)
        logits = out.logits.float()
        known = labels >= 0
        targets = labels.clamp(min=0)
        weights = known.float()
        if self._class_weights is not None:
            weights = weights * self._class_weights.to(logits.device)[targets]
        each = distillation_loss(logits, targets, log_p, self.objective, self.temperature, weights)
        each = each + self.layers(out, input_ids, attention_mask)
        count = torch.tensor(len(labels), device=logits.device)
        items = count if num_items_in_batch is None else num_items_in_batch
        with torch.no_grad():
            ce = cross_entropy(logits, targets)[known].sum()
        total = each.sum()
        return {"loss": total / items, "sum": total.detach(), "ce": ce, "count": count}


def balanced(labels: Sequence[int], classes: int) -> list[float]:
    """[C] n / (C x count): the weights under which every class has the same share of the loss (as scikit-learn's
    `balanced`). A class without rows gets 1; labels below 0 are none."""
    counts = [sum(label == each for label in labels) for each in range(classes)]
    return [sum(counts) / (classes * count) if count else 1.0 for count in counts]


class Texts(Dataset[dict[str, Any]]):
    """Labelled texts, each with the teacher's class distribution where there is a cache."""

    def __init__(self, rows: Sequence[Encoded], signal: LabelReader | None, classes: int) -> None:
        """Check every text.

        Raises:
            UserError: no texts, a label that the head does not have, or a text that the cache does not have.
        """
        if not rows:
            raise UserError("there is nothing to train on", where="data", fix="check data.splits")
        if signal is None and any(row.label < 0 for row in rows):
            raise UserError(
                "rows without a label teach nothing without the teacher", where="distill.loss",
                fix="set signal: {kind: labels}, or leave such rows out",
            )  # fmt: skip
        if wrong := [row for row in rows if not -1 <= row.label < classes]:
            raise UserError(
                f"{len(wrong)} rows have a label outside the {classes} classes", where="data.choices",
                fix="run the data stage again",
            )  # fmt: skip
        if signal is not None and (missing := signal.missing(row.id for row in rows)):
            raise UserError(
                f"{len(missing)} of {len(rows)} texts are not in the signal cache",
                where=str(signal.directory),
                fix="build the cache from these rows",
            )
        self.rows, self.signal = rows, signal
        self.lengths = [len(row.ids) for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        item: dict[str, Any] = {"ids": row.ids, "label": row.label}
        if self.signal is not None:
            item["log_p"] = self.signal.get(row.id)
        return item


def collate_texts(items: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """Pad on the right, to the longest of the batch.

    Returns:
        input_ids, attention_mask [B, L] int64; labels [B]; with a signal also log_p [B, C].
    """
    length = max(len(item["ids"]) for item in items)
    ids = torch.full((len(items), length), pad, dtype=torch.int64)
    attention = torch.zeros_like(ids)
    for row, item in enumerate(items):
        ids[row, : len(item["ids"])] = torch.tensor(item["ids"])
        attention[row, : len(item["ids"])] = 1
    batch = {"input_ids": ids, "attention_mask": attention, "labels": torch.tensor([item["label"] for item in items])}
    if "log_p" in items[0]:
        batch["log_p"] = torch.stack([item["log_p"] for item in items])
    return batch
