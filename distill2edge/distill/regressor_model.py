"""A regressor whose forward pass is the distillation loss, and the batches it reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill2edge.data.numbers import spread_of
from distill2edge.distill.batches import Collator
from distill2edge.distill.label_cache import NumberReader
from distill2edge.distill.losses import Objective
from distill2edge.distill.module import EncoderModule, LayerTeacher
from distill2edge.distill.taught_texts import TaughtTexts, collate_texts
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.distill.encoder_training import Lesson, Texts


class RegressorModel(EncoderModule):
    """The student and its loss in one module. Numbers are compared in standard deviations of the data's."""

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        deviation: float,
        teacher: LayerTeacher | None,
        dtype: torch.dtype,
    ) -> None:
        """As `EncoderModule`. `deviation`: of the data's numbers, above 0."""
        super().__init__(student, objective, teacher, dtype)
        self._deviation = deviation

    def collator(self) -> Collator:
        """Texts -> the batch that `forward` takes."""
        return partial(_collate, pad=self.pad)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        numbers: Tensor,
        taught: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            input_ids, attention_mask: [B, L].
            labels: [B] of no meaning: what losses are divided by is counted in them.
            numbers: [B] of the data; not a number (NaN) where a text has none.
            taught: [B] of the teacher, where a term compares them.
            num_items_in_batch: texts of the whole step, over all micro-batches and processes; None: this batch alone.
            token_type_ids: [B, L] segment ids, of two texts.

        Returns:
            loss: the sum over this batch / that count. sum: undivided. count: of this batch.
        """
        out = self.read(input_ids, attention_mask, token_type_ids)
        own = out.logits.float()[:, 0] / self._deviation
        each = self.layers(out, input_ids, attention_mask, token_type_ids)
        known = ~numbers.isnan()
        gold = torch.where(known, numbers / self._deviation, own.detach())
        for term in self.objective.numbers:
            each = each + torch.where(known, term.weight * term.function(gold, own), 0.0)
        for term in self.objective.teacher_numbers:
            assert taught is not None, "the term needs the teacher's numbers"
            each = each + term.weight * term.function(taught / self._deviation, own)
        return self.summed(each, num_items_in_batch)


class NumberedTexts(TaughtTexts):
    """Texts, each with its number, and the teacher's where there is a cache."""

    signal: NumberReader | None

    def __init__(self, rows: Sequence[Encoded], signal: NumberReader | None) -> None:
        """Check every text.

        Raises:
            UserError: as `TaughtTexts`; a text that neither has a number nor a teacher's.
        """
        super().__init__(rows, signal)
        if signal is None and any(row.number is None for row in rows):
            raise UserError(
                "rows without a number teach nothing without the teacher", where="distill.loss",
                fix="set signal: {kind: numbers} and distill.loss.teacher_mse, or leave such rows out",
            )  # fmt: skip

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        number = math.nan if row.number is None else row.number
        item: dict[str, Any] = {"ids": row.ids, "types": row.types, "label": 0, "number": number}
        return item if self.signal is None else {**item, "taught": self.signal.get(row.id)}


def _collate(items: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """As `collate_texts`, with `numbers` [B], and `taught` [B] where there is a teacher."""
    return {**collate_texts(items, pad, "taught"), "numbers": torch.tensor([item["number"] for item in items])}


def make_regressor(
    student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype, lesson: Lesson
) -> tuple[RegressorModel, Texts]:
    """As `encoder_training.Make`, of a regressor on the data's and the teacher's numbers.

    Raises:
        UserError: as `NumberedTexts`; no training row with a number, or no signal where the loss compares with one.
    """
    reader = None
    if any(lesson.loss.weighed("teacher_numbers")):
        if lesson.signal is None:
            raise UserError("the loss compares with the teacher, but there is no signal", where="distill.loss",
                            fix="set signal: {kind: numbers}, or distill.loss: {mse: 1}")  # fmt: skip
        reader = NumberReader(lesson.signal[0])
    _, deviation = spread_of([row.number for row in lesson.rows if row.number is not None])
    model = RegressorModel(student, objective, deviation, beside, dtype)
    return model, lambda rows: NumberedTexts(rows, reader)
