"""Task-agnostic distillation of an encoder: fewer layers of the unfitted teacher, trained on masked tokens."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.distill.loop import facts_of, finished, run_training, set_up
from distill2edge.errors import UserError
from distill2edge.models.checkpoint import MissingTensors, load_checkpoint, load_tokenizer
from distill2edge.models.loading import copy_tokenizer
from distill2edge.models.precision import compute_dtype, default_device
from distill2edge.processes.group import together
from distill2edge.recipe.pretrain import Pretrain
from distill2edge.recipe.training import Training
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch

    from distill2edge.distill.masked import MaskedModel, MaskedTexts, Piece

_BATCH = 64  # of the held-out texts


def pretrain(
    base: Path,
    kept: Sequence[int],
    texts: Sequence[Piece],
    validation: Sequence[Piece],
    spec: Pretrain,
    seed: int,
    work: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Write `work/model`: the kept layers of `base`, distilled on masked tokens, and `pretrain.json`.

    Resumes as `distill.train.train`, the teacher's own training too.

    Args:
        base: the unfitted teacher, an encoder.
        kept: its layers that the student is made of.
        texts, validation: token ids, and the segment ids of two texts.

    Returns:
        facts: layers, student and teacher (facts of their training), accuracy of both on the validation's masked
        tokens.

    Raises:
        UserError: no masked language model can be made of it, or it has no head and is not to be trained.
    """
    from distill2edge.distill.masked import MaskedTexts

    set_up(seed)
    tokenizer: Any = load_tokenizer(base)
    if tokenizer.mask_token_id is None:
        raise UserError("its tokenizer has no mask token", where="student.pretrain", fix="leave it out")
    trained, distilled = work / "teacher", work / "student"
    facts: dict[str, Any] = {"schema_version": 1, "layers": list(kept), "teacher": None}
    masked = partial(MaskedTexts, tokenizer=tokenizer, share=spec.mask, seed=seed)
    run = partial(train_masked, texts=texts, validation=validation, masked=masked, seed=seed, progress=progress)

    taught_by = base
    if spec.teacher is not None:
        facts["teacher"] = run(partial(_alone, base), spec.teacher, trained)
        taught_by = trained / "model"
    facts["student"] = run(partial(_taught, taught_by, kept, spec), spec, distilled)
    if validation:
        rows = masked(validation, variants=1)
        models = {"student": _load(distilled / "model").eval(), "teacher": _load(taught_by).eval()}
        facts["accuracy"] = {name: masked_accuracy(model, rows) for name, model in models.items()}
    copy_tokenizer(Path(base), distilled / "model")
    (distilled / "model").rename(work / "model")
    for leftover in (trained, distilled):
        shutil.rmtree(leftover, ignore_errors=True)
    write_json(work / "pretrain.json", facts)
    return facts


def _alone(base: Path, dtype: torch.dtype) -> MaskedModel:
    """The teacher, to be trained on masked tokens alone."""
    from distill2edge.distill.masked import MaskedModel

    return MaskedModel(_load(base, headless=True), None, dtype)


def _taught(teacher_dir: Path, kept: Sequence[int], spec: Pretrain, dtype: torch.dtype) -> MaskedModel:
    """The kept layers of the teacher, with the teacher beside them."""
    from distill2edge.distill.masked import MaskedModel
    from distill2edge.student.layers import keep_layers

    teacher, student = (_load(teacher_dir) for _ in range(2))
    keep_layers(student, kept)
    weights = {"soft": spec.soft, "masked": spec.masked, "cosine": spec.cosine, "temperature": spec.temperature}
    return MaskedModel(student, teacher.eval().requires_grad_(False), dtype, **weights)


@together
def train_masked(
    make: Callable[[torch.dtype], MaskedModel],
    training: Training,
    place: Path,
    *,
    texts: Sequence[Piece],
    validation: Sequence[Piece],
    masked: Callable[..., MaskedTexts],
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train on masked texts, masked again in every epoch; writes `place/model`.

    Args:
        make: type of the products -> what is trained.
        masked: texts and how many variants of each -> rows.
    """
    from distill2edge.distill.masked import collate_masked

    result = place / "model"
    if (facts := finished(result)) is not None:
        return facts
    set_up(seed)
    variants = math.ceil(training.epochs)
    rows = masked(texts, variants=variants)
    record = run_training(
        make(compute_dtype(training.dtype, default_device())),
        rows,
        masked(validation, variants=1) if validation else None,
        partial(collate_masked, pad=rows.pad),
        training.model_copy(update={"epochs": training.epochs / variants}),
        result,
        "training loss",
        seed,
        progress,
    )
    return facts_of(record)


def masked_accuracy(model: Any, rows: Any) -> float:
    """Share of the masked tokens of a `MaskedTexts` whose logit is the greatest."""
    import torch

    from distill2edge.distill.batches import IGNORED
    from distill2edge.distill.masked import collate_masked, predict

    right = total = 0
    for begin in range(0, len(rows), _BATCH):
        chunk = collate_masked([rows[at] for at in range(begin, min(begin + _BATCH, len(rows)))], 0)
        batch = {name: part.to(model.device) for name, part in chunk.items()}  # the trainer may have moved the model
        chosen = batch["labels"] != IGNORED
        with torch.inference_mode():
            logits, _ = predict(model, batch["input_ids"], batch["attention_mask"], chosen, batch.get("token_type_ids"))
        right += int((logits.argmax(-1) == batch["labels"][chosen]).sum())
        total += int(chosen.sum())
    return right / total


def _load(directory: Path, *, headless: bool = False) -> Any:
    """A masked language model in float32.

    Args:
        headless: a head may be missing, and is then new.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    kind: Any = AutoModelForMaskedLM
    try:
        return load_checkpoint(kind, directory, new_head=headless, dtype=torch.float32)
    except ValueError as error:
        raise UserError(
            f"this does not load as a masked language model: {str(error).splitlines()[0]}",
            where="student.pretrain",
            fix="take an encoder: BERT, MiniLM, DistilBERT, RoBERTa, ELECTRA, ...",
        ) from error
    except MissingTensors as error:
        if not error.head_alone:
            raise
        raise UserError(
            "the teacher has no head for masked tokens",
            where="student.pretrain",
            fix="train one first: student.pretrain.teacher: {epochs: 1}",
        ) from error
