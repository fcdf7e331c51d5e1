"""A sequence classifier whose forward pass is the distillation loss, and the batches it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from distill2edge.distill.hidden_states import attention_divergence, hidden_distance
from distill2edge.distill.losses import Weights, cross_entropy, distillation_loss
from distill2edge.distill.module import LossModule
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.data.encode import Encoded
    from distill2edge.distill.label_cache import LabelReader


@dataclass(frozen=True)
class Inner:
    """The terms on inner states, for which the teacher runs beside the student.

    Attributes:
        teacher: frozen, in evaluation mode.
        layers: the teacher's layer for each of the student's.
        hidden, attention: weights.
        kind: of the distance of hidden states.
        to_teacher: [student's vocabulary] int64, the teacher's id of each token; None where they are the same.
    """

    teacher: nn.Module
    layers: Sequence[int]
    hidden: float
    attention: float
    kind: Literal["cosine", "mse"] = "cosine"
    to_teacher: Tensor | None = None


class ClassifierModel(LossModule):
    """The student and its loss in one module.

    The loss of a text is ce x CE + T^2 x (divergences of the class distributions at T) + hidden x distance of hidden
    states + attention x divergence of attention maps; that of a step is their mean over its texts.

    Attributes:
        student: a Hugging Face classifier, or a PEFT model around one.
    """

    def __init__(
        self, student: nn.Module, weights: Weights, temperature: float, inner: Inner | None, dtype: torch.dtype
    ) -> None:
        """`dtype`: what the matrix products run in (autocast; the weights are float32)."""
        super().__init__(student, dtype)
        self.weights, self.temperature = weights, temperature
        self.config = student.config
        self._inner = [] if inner is None else [inner]  # in a list: the teacher is no part of this module

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
            labels: [B] indices of the classes.
            log_p: [B, C] the teacher's log-probabilities at the temperature, where a term compares them.
            num_items_in_batch: texts of the whole step, over all micro-batches and processes; None: this batch alone.

        Returns:
            loss: the sum over this batch / that count. sum, ce: undivided. count: of this batch.
        """
        inner = self._inner[0] if self._inner else None
        outputs = _states(inner)
        with self.autocast():
            out = self.student(input_ids=input_ids, attention_mask=attention_mask, **outputs)
        logits = out.logits.float()
        each = distillation_loss(logits, labels, log_p, self.weights, self.temperature)
        if inner is not None:
            each = each + self._compare(inner, out, input_ids, attention_mask, outputs)
        count = torch.tensor(len(labels), device=logits.device)
        items = count if num_items_in_batch is None else num_items_in_batch
        with torch.no_grad():
            ce = cross_entropy(logits, labels).sum()
        total = each.sum()
        return {"loss": total / items, "sum": total.detach(), "ce": ce, "count": count}

    def _compare(self, inner: Inner, out: Any, input_ids: Tensor, mask: Tensor, outputs: dict[str, bool]) -> Tensor:
        ids = input_ids if inner.to_teacher is None else inner.to_teacher.to(input_ids.device)[input_ids]
        if next(inner.teacher.parameters()).device != input_ids.device:
            inner.teacher.to(input_ids.device)
        with torch.no_grad(), self.autocast():
            theirs = inner.teacher(input_ids=ids, attention_mask=mask, **outputs)
        total = torch.zeros(len(mask), device=mask.device)
        if inner.hidden:
            # Entry 0 is the embeddings: layer i writes entry i + 1.
            pairs = [(out.hidden_states[i + 1], theirs.hidden_states[j + 1]) for i, j in enumerate(inner.layers)]
            ours, others = zip(*pairs, strict=True)
            total = total + inner.hidden * hidden_distance(ours, others, mask, inner.kind)
        if inner.attention:
            pairs = [(out.attentions[i], theirs.attentions[j]) for i, j in enumerate(inner.layers)]
            ours, others = zip(*pairs, strict=True)
            total = total + inner.attention * attention_divergence(ours, others, mask)
        return total


def _states(inner: Inner | None) -> dict[str, bool]:
    if inner is None:
        return {}
    asked = {"output_hidden_states": inner.hidden > 0, "output_attentions": inner.attention > 0}
    return {name: True for name, on in asked.items() if on}


class Texts(Dataset[dict[str, Any]]):
    """Labelled texts, each with the teacher's class distribution where there is a cache."""

    def __init__(self, rows: Sequence[Encoded], signal: LabelReader | None, classes: int) -> None:
        """Check every text.

        Raises:
            UserError: no texts, a label that the head does not have, or a text that the cache does not have.
        """
        if not rows:
            raise UserError("there is nothing to train on", where="data", fix="check data.splits")
        if wrong := [row for row in rows if not 0 <= row.label < classes]:
            raise UserError(
                f"{len(wrong)} rows have a label that is none of the {classes} classes", where="data.choices",
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
