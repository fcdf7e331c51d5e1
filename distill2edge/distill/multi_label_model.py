"""A multi-label classifier whose forward pass is the distillation loss, and the batches it reads.

Each label is a question of its own with two answers, so the loss of a text is the sum over the labels of
`distillation_loss` on these two events: cross-entropy becomes binary cross-entropy, KL that of the probabilities of
each label. By the chain rule both sums are the cross-entropy and the KL of the whole set, in nats per text, for labels
that are independent given the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill2edge.distill.batches import Collator
from distill2edge.distill.classifier_model import balanced
from distill2edge.distill.label_cache import SetReader, open_signal
from distill2edge.distill.losses import Objective, cross_entropy, distillation_loss
from distill2edge.distill.module import EncoderModule, LayerTeacher
from distill2edge.distill.taught_texts import TaughtTexts, collate_texts
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.distill.encoder_training import Lesson, Texts


class MultiLabelModel(EncoderModule):
    """The student and its loss in one module, as `ClassifierModel`."""

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        temperature: float,
        teacher: LayerTeacher | None,
        dtype: torch.dtype,
        weights: Sequence[Sequence[float]] | None = None,
    ) -> None:
        """As `EncoderModule`. `weights`: [C][2] of the terms on labels that a text has not, and has; None: all 1."""
        super().__init__(student, objective, teacher, dtype)
        self.temperature = temperature
        self._weights = None if weights is None else torch.tensor(weights)

    def collator(self) -> Collator:
        """Texts -> the batch that `forward` takes."""
        return partial(_collate, pad=self.pad)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        sets: Tensor,
        log_p: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            input_ids, attention_mask: [B, L].
            labels: [B] of no meaning: what losses are divided by is counted in them.
            sets: [B, C] int64: 1 for a label that a text has, 0 for one that it has not, -1 where nothing is known.
            log_p: [B, C, 2] the teacher's log-probabilities at the temperature (`SetReader`), where a term compares.
            token_type_ids: [B, L] segment ids, of two texts.
            num_items_in_batch: texts of the whole step, over all micro-batches and processes; None: this batch alone.

        Returns:
            loss: the sum over this batch / that count. sum, ce: undivided. count: of this batch.
        """
        out = self.read(input_ids, attention_mask, token_type_ids)
        own = out.logits.float()
        events = torch.stack([torch.zeros_like(own), own], -1).flatten(0, 1)  # [B x C, 2]
        known, targets = (sets >= 0).flatten(), sets.clamp(min=0).flatten()
        weights = known.float()
        if self._weights is not None:
            each_label = self._weights.to(own.device).expand(len(own), -1, -1).flatten(0, 1)
            weights = weights * each_label.gather(1, targets[:, None]).squeeze(1)
        theirs = None if log_p is None else log_p.flatten(0, 1)
        each = distillation_loss(events, targets, theirs, self.objective, self.temperature, weights)
        each = each.view(own.shape).sum(-1) + self.layers(out, input_ids, attention_mask, token_type_ids)
        with torch.no_grad():
            ce = cross_entropy(events, targets)[known].sum()
        return {**self.summed(each, num_items_in_batch), "ce": ce}


def balanced_sets(sets: Sequence[Sequence[int]], classes: int) -> list[list[float]]:
    """[C][2] weights of texts without and with a label, under which both have the same share of its loss: `balanced` of
    each label. Their ratio is the positive weight of PyTorch's BCEWithLogitsLoss.

    Args:
        sets: labels of each text that has some or none.
    """
    return [balanced([int(label in found) for found in sets], 2) for label in range(classes)]


class SetTexts(TaughtTexts):
    """Texts, each with its set of labels, and the teacher's probability of each label where there is a cache."""

    signal: SetReader | None

    def __init__(self, rows: Sequence[Encoded], signal: SetReader | None, classes: int) -> None:
        """Check every text.

        Raises:
            UserError: as `TaughtTexts`; a text without a set, which is not the empty one, that no teacher labels.
        """
        super().__init__(rows, signal)
        self._classes = classes
        if signal is None and any(row.labels is None for row in rows):
            raise UserError(
                "rows without labels teach nothing without the teacher", where="distill.loss",
                fix="set signal: {kind: labels}, or leave such rows out",
            )  # fmt: skip

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        held = torch.full((self._classes,), -1 if row.labels is None else 0)
        held[list(row.labels or ())] = 1
        item: dict[str, Any] = {"ids": row.ids, "types": row.types, "label": 0, "set": held}
        return item if self.signal is None else {**item, "log_p": self.signal.get(row.id)}


def _collate(items: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """As `collate_texts`, with `sets` [B, C], and `log_p` [B, C, 2] where there is a teacher."""
    return {**collate_texts(items, pad, "log_p"), "sets": torch.stack([item["set"] for item in items])}


def make_multi_label(
    student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype, lesson: Lesson
) -> tuple[MultiLabelModel, Texts]:
    """As `encoder_training.Make`, of sets of labels and the teacher's probability of each label.

    Raises:
        UserError: as `SetTexts`; no signal where the loss compares with one, or one of another number of labels.
    """
    classes, loss = int(student.config.num_labels), lesson.loss
    reader = open_signal(lesson.signal, classes, SetReader) if loss.needs_logits else None
    held = [row.labels for row in lesson.rows if row.labels is not None]
    weights = balanced_sets(held, classes) if loss.class_weights == "balanced" else None
    model = MultiLabelModel(student, objective, reader.temperature if reader else 1.0, beside, dtype, weights)
    return model, lambda rows: SetTexts(rows, reader, classes)
