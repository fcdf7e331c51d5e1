"""Training a regressor on numbers; LoRA or in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data.numbers import spread_of
from distill2edge.distill.encoder_training import Beside, Texts, train_encoder
from distill2edge.errors import UserError
from distill2edge.recipe import schema
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distill2edge.data.encode import Encoded
    from distill2edge.distill.losses import Objective
    from distill2edge.distill.module import EncoderModule, LayerTeacher


def train_regressor(
    model_dir: Path,
    train_rows: Sequence[Encoded],
    validation_rows: Sequence[Encoded],
    signal: tuple[Path, float] | None,
    teacher: Beside | None,
    training: schema.Training,
    loss: schema.Loss,
    lora: schema.Lora | None,
    seed: int,
    work: Path,
    progress: Progress,
) -> dict[str, Any]:
    """As `train_encoder`, of a regressor on the data's and the teacher's numbers.

    Args:
        signal: directory of the numbers, and a temperature that they do not have.

    Raises:
        UserError: as `train_encoder`; no training row with a number.
    """

    def make(
        student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype
    ) -> tuple[EncoderModule, Texts]:
        from distill2edge.distill.label_cache import NumberReader
        from distill2edge.distill.regressor_model import NumberedTexts, RegressorModel

        reader = None
        if any(loss.weighed("teacher_numbers")):
            if signal is None:
                raise UserError("the loss compares with the teacher, but there is no signal", where="distill.loss",
                                fix="set signal: {kind: numbers}, or distill.loss: {mse: 1}")  # fmt: skip
            reader = NumberReader(signal[0])
        _, deviation = spread_of([row.number for row in train_rows if row.number is not None])
        model = RegressorModel(student, objective, deviation, beside, dtype)
        return model, lambda rows: NumberedTexts(rows, reader)

    return train_encoder(
        model_dir, train_rows, validation_rows, teacher, training, loss, lora, seed, work, progress, make
    )
