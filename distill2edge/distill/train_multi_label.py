"""Training a multi-label classifier; LoRA or in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.distill.encoder_training import Beside, Texts, train_encoder
from distill2edge.distill.train_classifier import open_signal
from distill2edge.recipe import schema
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distill2edge.data.encode import Encoded
    from distill2edge.distill.losses import Objective
    from distill2edge.distill.module import EncoderModule, LayerTeacher


def train_multi_label(
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
    """As `train_classifier`, of sets of labels and the teacher's probability of each label."""

    def make(
        student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype
    ) -> tuple[EncoderModule, Texts]:
        from distill2edge.distill.label_cache import SetReader
        from distill2edge.distill.multi_label_model import MultiLabelModel, SetTexts, balanced_sets

        classes = int(student.config.num_labels)
        reader = open_signal(signal, classes, SetReader) if loss.needs_logits else None
        held = [row.labels for row in train_rows if row.labels is not None]
        weights = balanced_sets(held, classes) if loss.class_weights == "balanced" else None
        temperature = reader.temperature if reader else 1.0
        model = MultiLabelModel(student, objective, temperature, beside, dtype, weights)
        return model, lambda rows: SetTexts(rows, reader, classes)

    return train_encoder(
        model_dir, train_rows, validation_rows, teacher, training, loss, lora, seed, work, progress, make
    )
