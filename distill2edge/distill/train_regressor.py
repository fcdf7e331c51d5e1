"""Training a regressor on numbers; LoRA or in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data.numbers import spread_of
from distill2edge.distill.loop import facts_of, finished, run_training, set_up
from distill2edge.distill.train_classifier import Beside, load_encoder, open_beside
from distill2edge.errors import UserError
from distill2edge.models.precision import compute_dtype, default_device
from distill2edge.recipe import schema
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.data.encode import Encoded


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
    """As `train_classifier`, of a regressor on the data's and the teacher's numbers.

    Args:
        signal: directory of the numbers, and a temperature that they do not have.

    Raises:
        UserError: as `train_classifier`; no training row with a number.
    """
    result = Path(work) / ("adapter" if lora else "model")
    if (facts := finished(result)) is not None:
        return facts
    from distill2edge.distill.label_cache import NumberReader
    from distill2edge.distill.objective import objective_of
    from distill2edge.distill.regressor_model import NumberedTexts, RegressorModel

    set_up(seed)
    maps = any(loss.weighed("attentions"))
    student = load_encoder(model_dir, lora, attention=maps, checkpointing=training.gradient_checkpointing)
    reader = None
    if any(loss.weighed("teacher_numbers")):
        if signal is None:
            raise UserError("the loss compares with the teacher, but there is no signal", where="distill.loss",
                            fix="set signal: {kind: numbers}, or distill.loss: {mse: 1}")  # fmt: skip
        reader = NumberReader(signal[0])
    beside = None
    if loss.needs_layers:
        assert teacher is not None, "the terms on intermediate layers need the teacher"
        beside = open_beside(teacher, loss, student.config)
    _, deviation = spread_of([row.number for row in train_rows if row.number is not None])
    dtype = compute_dtype(training.dtype, default_device())
    model = RegressorModel(student, objective_of(loss), deviation, beside, dtype)
    record = run_training(
        model,
        NumberedTexts(train_rows, reader),
        NumberedTexts(validation_rows, reader) if validation_rows else None,
        model.collator(),
        training,
        result,
        "training loss",
        seed,
        progress,
    )
    return facts_of(record)
