"""The untrained student: a checkpoint, or some of the teacher's own layers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.kinds import ENCODER_DECODER, kind_of_directory, logits_of
from distill2edge.models.loading import copy_tokenizer, load_model, read_config
from distill2edge.models.shape import shape_of
from distill2edge.recipe import schema
from distill2edge.recipe.student import wanted_widths
from distill2edge.student.chosen import check_layers, chosen
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch

    from distill2edge.data.examples import Encoded

SIMILARITY_TOKENS = 2048
"""Tokens of calibration rows on which layers are compared."""

_BATCH = 8


def init_student(
    student: schema.Student,
    teacher_dir: Path,
    rows: Sequence[Encoded],
    work: Path,
    progress: Progress,
    checkpoint_dir: Path | None = None,
    same_vocabulary: bool = True,
) -> dict[str, Any]:
    """Write `work/model` (the untrained student) and `work/student.json`.

    Args:
        rows: calibration rows in the tokens of the model that it is made of; for `select: similarity` and `width`.
        checkpoint_dir: the materialised `student.init.model`; for a student that starts from a checkpoint.
        same_vocabulary: the signal is in token ids, so both must give every token the same id.

    Returns:
        what student.json holds: source, layers kept (or null), distances, width where it is narrower, parameters.

    Raises:
        UserError: layers that the teacher does not have, no rows to compare layers on, vocabularies that differ.
    """
    work = Path(work)
    init = student.init
    if isinstance(init, schema.FromModel):
        if checkpoint_dir is None:
            raise ValueError("checkpoint_dir is needed for a student that starts from a checkpoint")
        if same_vocabulary:
            from distill2edge.intake.vocabularies import check_same_vocabulary

            teacher, own = (load_tokenizer(path) for path in (teacher_dir, checkpoint_dir))
            check_same_vocabulary(teacher, own)
        name = init.model if isinstance(init.model, str) else "randomly initialised"
        facts = _from_checkpoint(init, rows, checkpoint_dir, work, name, progress)
    else:
        facts = _from_teacher(init, teacher_dir, rows, work, progress)
    record = {"schema_version": 1, **facts}
    write_json(work / "student.json", record)
    return record


def _from_checkpoint(
    init: schema.FromModel, rows: Sequence[Encoded], checkpoint_dir: Path, work: Path, name: str, progress: Progress
) -> dict[str, Any]:
    """The checkpoint, or some of its layers, or narrower ones.

    Raises:
        UserError: layers or widths that it does not have, or an architecture that keeps them in no list.
    """
    target, layers, width = work / "model", init.layers, wanted_widths(init)
    shutil.rmtree(target, ignore_errors=True)
    total = shape_of(read_config(checkpoint_dir)).layers
    facts: dict[str, Any] = {"source": name, "layers": None, "of": total}
    if layers is None and not width:
        shutil.copytree(checkpoint_dir, target)
        return {**facts, "parameters": _parameters(target)}
    from distill2edge.student.layers import keep_layers

    if layers is not None and total is not None:
        check_layers(layers, total, "the checkpoint")
    model: Any = load_model(checkpoint_dir, dtype="auto").eval()
    if width:
        model, facts["width"] = _narrowed(model, width, rows, "the checkpoint", progress)
    if layers is not None:
        facts["layers"] = chosen(layers, model.config.num_hidden_layers)
        keep_layers(model, facts["layers"])
    model.save_pretrained(target)
    copy_tokenizer(checkpoint_dir, target)
    if width:
        _check_saved(model, target, _probe(rows))
    return {**facts, "parameters": _parameters(target)}


def _narrowed(
    model: Any, width: Mapping[str, int | float], rows: Sequence[Encoded], owner: str, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    from distill2edge.student.narrow import narrow

    return narrow(model, width, rows, owner, progress)


def _from_teacher(
    init: schema.FromTeacher, teacher_dir: Path, rows: Sequence[Encoded], work: Path, progress: Progress
) -> dict[str, Any]:
    if width := wanted_widths(init):
        from distill2edge.student.tensor_roles import check

        check(read_config(teacher_dir), (), width, "the teacher")  # before seconds of loading
    if kind_of_directory(teacher_dir) is ENCODER_DECODER:
        from distill2edge.student.seq2seq_layers import from_seq2seq_teacher

        facts = from_seq2seq_teacher(init, teacher_dir, work / "model")
        copy_tokenizer(Path(teacher_dir), work / "model")
        return facts
    if init.decoder_layers is not None:
        raise UserError(
            "decoder_layers is for teachers with an encoder and a decoder",
            where="student.init.decoder_layers",
            fix="leave it out: student.init.layers counts the layers of a decoder",
        )
    from distill2edge.student.layers import by_similarity, keep_layers, layers_of

    total = shape_of(read_config(teacher_dir)).layers
    if total is not None:
        check_layers(init.layers, total)  # before seconds of loading
    model: Any = load_model(teacher_dir, dtype="auto").eval()
    total = len(layers_of(model))
    dropped: list[dict[str, float]] = []
    kept = chosen(init.layers, total, init.select)
    if isinstance(init.layers, int) and init.select == "similarity":
        if not rows:
            raise UserError(
                "there are no rows to compare layers on",
                where="student.init.select",
                fix="give data.splits.calibration some rows, or set select: even",
            )
        kept, dropped = by_similarity(model, _batches(rows, model.config), init.layers, progress)
    narrower = {}
    if width:
        model, narrower["width"] = _narrowed(model, width, rows, "the teacher", progress)
    keep_layers(model, kept)
    target = work / "model"
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target)
    copy_tokenizer(Path(teacher_dir), target)
    _check_saved(model, target, _probe(rows))
    return {
        "source": "teacher",
        "select": "chosen" if not isinstance(init.layers, int) else init.select,
        "layers": kept,
        "of": total,
        "dropped": [{"layer": int(d["layer"]), "distance": d["distance"]} for d in dropped],
        **narrower,
        "parameters": model.num_parameters(),
    }


def _probe(rows: Sequence[Encoded]) -> list[int]:
    return list(rows[0].ids[:16]) if rows else list(range(8))


def _check_saved(model: Any, target: Path, probe: Sequence[int]) -> None:
    """What was saved must load as the very same function."""
    import torch

    saved: Any = load_model(target, dtype="auto").eval()
    with torch.no_grad():
        # The same weights elsewhere in memory may be added up in another order.
        same = torch.allclose(logits_of(model, probe, 0), logits_of(saved, probe, 0), rtol=1e-4, atol=1e-5)
    if not same:
        raise UserError(
            f"a {type(model).__name__} with fewer or narrower layers does not load as it was saved",
            where="student.init",
            fix="start the student from a checkpoint instead: student.init: {model: ...}",
        )


def _batches(rows: Sequence[Encoded], config: Any) -> list[dict[str, torch.Tensor]]:
    """The first rows up to `SIMILARITY_TOKENS`, of similar length together."""
    from distill2edge.distill.batches import collate
    from distill2edge.distill.module import segments_for
    from distill2edge.distill.taught_texts import segments_of

    chosen: list[dict[str, Any]] = []
    tokens = 0
    for row in rows:
        if tokens >= SIMILARITY_TOKENS:
            break
        types = None if row.types is None else row.types[:SIMILARITY_TOKENS]
        chosen.append({"ids": row.ids[:SIMILARITY_TOKENS], "mask": row.mask[:SIMILARITY_TOKENS], "types": types})
        tokens += len(row.ids)
    chosen.sort(key=lambda item: len(item["ids"]))
    found = []
    for at in range(0, len(chosen), _BATCH):
        group = collate(chosen[at : at + _BATCH], 0)
        segments = segments_of(chosen[at : at + _BATCH], group["input_ids"].shape[1])
        told = segments_for(config, segments if segments.any() else None)
        found.append({"input_ids": group["input_ids"], "attention_mask": group["attention_mask"], **told})
    return found


def _parameters(model_dir: Path) -> int:
    """Weights in the safetensors files; tied ones are there once."""
    import math

    from safetensors import safe_open

    count = 0
    for path in model_dir.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no iterator
    return count
