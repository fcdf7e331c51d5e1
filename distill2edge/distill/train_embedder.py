"""Training an embedder on its teacher's vectors; LoRA or in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def train_embedder(
    model_dir: Path,
    train_rows: Sequence[Encoded],
    validation_rows: Sequence[Encoded],
    signal: Path,
    teacher: Beside | None,
    training: schema.Training,
    loss: schema.Loss,
    lora: schema.Lora | None,
    seed: int,
    work: Path,
    progress: Progress,
) -> dict[str, Any]:
    """As `train_encoder`, of an embedder on its teacher's vectors.

    Args:
        signal: directory of the vectors.

    Raises:
        UserError: as `train_encoder`; a term on vectors where the widths differ.
    """

    def make(
        student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype
    ) -> tuple[EncoderModule, Texts]:
        from distill2edge.distill.embedder_model import EmbeddedTexts, EmbedderModel
        from distill2edge.distill.label_cache import VectorReader

        reader, width = VectorReader(signal), student.config.hidden_size
        for term, _ in loss.weighed("embeddings") if reader.classes != width else ():
            raise UserError(
                f"{term.label}: vectors of {width} and {reader.classes} dimensions cannot be compared",
                where=f"distill.loss.{term.name}",
                fix="set it to 0 and give similarity a weight, or use student.init: {from: teacher, layers: N}",
            )
        return EmbedderModel(student, objective, beside, dtype), lambda rows: EmbeddedTexts(rows, reader)

    return train_encoder(
        model_dir, train_rows, validation_rows, teacher, training, loss, lora, seed, work, progress, make
    )
