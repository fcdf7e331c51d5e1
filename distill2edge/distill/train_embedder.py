"""Training an embedder on its teacher's vectors; LoRA or in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.distill.loop import facts_of, finished, run_training, set_up
from distill2edge.distill.train_classifier import Beside, load_encoder, open_beside
from distill2edge.errors import UserError
from distill2edge.models.precision import compute_dtype, default_device
from distill2edge.recipe import schema
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.data.encode import Encoded


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
    """As `train_classifier`, of an embedder on its teacher's vectors.

    Args:
        signal: directory of the vectors.

    Raises:
        UserError: as `train_classifier`; a term on vectors where the widths differ.
    """
    result = Path(work) / ("adapter" if lora else "model")
    if (facts := finished(result)) is not None:
        return facts
    from distill2edge.distill.embedder_model import EmbeddedTexts, EmbedderModel
    from distill2edge.distill.label_cache import VectorReader
    from distill2edge.distill.objective import objective_of

    set_up(seed)
    maps = any(loss.weighed("attentions"))
    student = load_encoder(model_dir, lora, attention=maps, checkpointing=training.gradient_checkpointing)
    reader = VectorReader(signal)
    for term, _ in loss.weighed("embeddings"):
        if reader.classes != student.config.hidden_size:
            raise UserError(
                f"{term.label}: vectors of {student.config.hidden_size} and {reader.classes} dimensions cannot be "
                "compared",
                where=f"distill.loss.{term.name}",
                fix="set it to 0 and give similarity a weight, or use student.init: {from: teacher, layers: N}",
            )
    beside = None
    if loss.needs_layers:
        assert teacher is not None, "the terms on intermediate layers need the teacher"
        beside = open_beside(teacher, loss, student.config)
    model = EmbedderModel(student, objective_of(loss), beside, compute_dtype(training.dtype, default_device()))
    record = run_training(
        model,
        EmbeddedTexts(train_rows, reader),
        EmbeddedTexts(validation_rows, reader) if validation_rows else None,
        model.collator(),
        training,
        result,
        "training loss",
        seed,
        progress,
    )
    return facts_of(record)
