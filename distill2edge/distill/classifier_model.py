"""A sequence classifier whose forward pass is the distillation loss, and the batches it reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill2edge.distill.batches import Collator
from distill2edge.distill.label_cache import LabelReader, open_signal
from distill2edge.distill.losses import Objective, cross_entropy, distillation_loss
from distill2edge.distill.module import EncoderModule, LayerTeacher
from distill2edge.distill.taught_texts import TaughtTexts, collate_texts
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.distill.encoder_training import Lesson, Texts


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
        return partial(collate_texts, pad=self.pad, taught="log_p")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        log_p: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            input_ids, attention_mask: [B, L].
            labels: [B] indices of the classes; -1 where a text has none.
            log_p: [B, C] the teacher's log-probabilities at the temperature, where a term compares them.
            num_items_in_batch: texts of the whole step, over all micro-batches and processes; None: this batch alone.
            token_type_ids: [B, L] segment ids, of two texts.

        Returns:
            loss: the sum over this batch / that count. sum, ce: undivided. count: of this batch.
        """
        out = self.read(input_ids, attention_mask, token_type_ids)
        logits = out.logits.float()
        known = labels >= 0
        targets = labels.clamp(min=0)
        weights = known.float()
        if self._class_weights is not None:
            weights = weights * self._class_weights.to(logits.device)[targets]
        each = distillation_loss(logits, targets, log_p, self.objective, self.temperature, weights)
        each = each + self.layers(out, input_ids, attention_mask, token_type_ids)
        with torch.no_grad():
            ce = cross_entropy(logits, targets)[known].sum()
        return {**self.summed(each, num_items_in_batch), "ce": ce}


def balanced(labels: Sequence[int], classes: int) -> list[float]:
    """[C] n / (C x count): the weights under which every class has the same share of the loss (as scikit-learn's
    `balanced`). A class without rows gets 1; labels below 0 are none."""
    counts = [sum(label == each for label in labels) for each in range(classes)]
    return [sum(counts) / (classes * count) if count else 1.0 for count in counts]


class LabelledTexts(TaughtTexts):
    """Labelled texts, each with the teacher's class distribution where there is a cache."""

    signal: LabelReader | None

    def __init__(self, rows: Sequence[Encoded], signal: LabelReader | None, classes: int) -> None:
        """Check every text.

        Raises:
            UserError: as `TaughtTexts`; a label that the head does not have, or none at all.
        """
        super().__init__(rows, signal)
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

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        item: dict[str, Any] = {"ids": row.ids, "types": row.types, "label": row.label}
        if self.signal is not None:
            item["log_p"] = self.signal.get(row.id)
        return item


def make_classifier(
    student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype, lesson: Lesson
) -> tuple[ClassifierModel, Texts]:
    """As `encoder_training.Make`, of a classifier on labels and the teacher's class distributions.

    Raises:
        UserError: as `LabelledTexts`; no signal where the loss compares with one, or one of another number of classes.
    """
    classes, loss = int(student.config.num_labels), lesson.loss
    reader = open_signal(lesson.signal, classes, LabelReader) if loss.needs_logits else None
    weights = balanced([row.label for row in lesson.rows], classes) if loss.class_weights == "balanced" else None
    model = ClassifierModel(student, objective, reader.temperature if reader else 1.0, beside, dtype, weights)
    return model, lambda rows: LabelledTexts(rows, reader, classes)
