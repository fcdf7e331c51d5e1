"""Training a token classifier: the student, a teacher's fit or a control arm; LoRA or in full."""

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


def train_tagger(
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
    """As `train_encoder`, of a token classifier on the words' tags and the teacher's distributions over them.

    Args:
        signal: directory of the tags' logits and temperature; None where `loss` compares none.

    Raises:
        UserError: as `train_encoder`; a signal of another number of tags.
    """

    def make(
        student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype
    ) -> tuple[EncoderModule, Texts]:
        from distill2edge.distill.label_cache import TagReader
        from distill2edge.distill.tagger_model import TaggedTexts, TaggerModel

        reader = None
        if loss.needs_logits:
            if signal is None:
                raise UserError("the loss compares with the teacher, but there is no signal", where="distill.loss",
                                fix="set signal: {kind: labels}, or distill.loss: {ce: 1}")  # fmt: skip
            reader = TagReader(*signal)
            if reader.classes != (tags := int(student.config.num_labels)):  # type: ignore[union-attr, arg-type]
                raise UserError(f"the signal has {reader.classes} tags, the student's head {tags}",
                                where=str(signal[0]), fix="run the signal stage again")  # fmt: skip
        model = TaggerModel(student, objective, reader.temperature if reader else 1.0, beside, dtype)
        return model, lambda rows: TaggedTexts(rows, reader)

    return train_encoder(
        model_dir, train_rows, validation_rows, teacher, training, loss, lora, seed, work, progress, make
    )
