"""Training a classifier: the student, a teacher's fit or a control arm; LoRA or in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from distill2edge.distill.encoder_training import Beside, Texts, train_encoder
from distill2edge.errors import UserError
from distill2edge.recipe import schema
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distill2edge.data.encode import Encoded
    from distill2edge.distill.label_cache import LabelReader
    from distill2edge.distill.losses import Objective
    from distill2edge.distill.module import EncoderModule, LayerTeacher

Reader = TypeVar("Reader", bound="LabelReader")


def train_classifier(
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
    """As `train_encoder`, of a classifier on labels and the teacher's class distributions.

    Args:
        signal: directory of class logits and temperature; None where `loss` compares none.

    Raises:
        UserError: as `train_encoder`; a label that the head does not have.
    """

    def make(
        student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype
    ) -> tuple[EncoderModule, Texts]:
        from distill2edge.distill.classifier_model import ClassifierModel, LabelledTexts, balanced
        from distill2edge.distill.label_cache import LabelReader

        classes = int(student.config.num_labels)
        reader = open_signal(signal, classes, LabelReader) if loss.needs_logits else None
        weights = balanced([row.label for row in train_rows], classes) if loss.class_weights == "balanced" else None
        temperature = reader.temperature if reader else 1.0
        model = ClassifierModel(student, objective, temperature, beside, dtype, weights)
        return model, lambda rows: LabelledTexts(rows, reader, classes)

    return train_encoder(
        model_dir, train_rows, validation_rows, teacher, training, loss, lora, seed, work, progress, make
    )


def open_signal(signal: tuple[Path, float] | None, classes: int, opens: type[Reader]) -> Reader:
    """The cache of class logits that a loss compares with.

    Args:
        classes: of the student's head.
        opens: what reads it.

    Raises:
        UserError: there is none, or it is of another number of classes.
    """
    if signal is None:
        raise UserError("the loss compares with the teacher, but there is no signal", where="distill.loss",
                        fix="set signal: {kind: labels}, or distill.loss: {ce: 1}")  # fmt: skip
    reader = opens(*signal)
    if reader.classes != classes:
        raise UserError(f"the signal has {reader.classes} classes, the student's head {classes}",
                        where=str(signal[0]), fix="run the signal stage again")  # fmt: skip
    return reader
