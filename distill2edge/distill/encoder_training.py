"""What the training of all encoders has in common: the student, LoRA or in full, and the teacher beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from distill2edge.distill.loop import facts_of, finished, run_training, set_dropout, set_up
from distill2edge.errors import UserError
from distill2edge.models.kinds import kind_of_model
from distill2edge.models.loading import load_model
from distill2edge.models.precision import compute_dtype, default_device
from distill2edge.models.shape import shape_of
from distill2edge.processes.group import together
from distill2edge.recipe import schema
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import Dataset

    from distill2edge.data.examples import Encoded
    from distill2edge.distill.losses import Objective
    from distill2edge.distill.module import EncoderModule, LayerTeacher
    from distill2edge.quantize.scales import TensorGrid

Texts: TypeAlias = "Callable[[Sequence[Encoded]], Dataset[dict[str, Any]]]"
Make: TypeAlias = (
    "Callable[[nn.Module, Objective, LayerTeacher | None, torch.dtype, Lesson], tuple[EncoderModule, Texts]]"
)
"""Student, what it minimises, the teacher beside it, the type of the products and what is learnt from -> what is
trained, and its texts. One for each kind of encoder, beside its model."""


@dataclass(frozen=True)
class Lesson:
    """What a student learns from.

    Attributes:
        rows: to train on.
        signal: directory of what the teacher says of them, and its temperature (of vectors and numbers without
            meaning); None where `loss` compares with none.
    """

    rows: Sequence[Encoded]
    signal: tuple[Path, float] | None
    loss: schema.Loss


@dataclass(frozen=True)
class Beside:
    """The teacher that runs beside the student.

    Attributes:
        layers: its layer for each of the student's.
        to_teacher: its id of each of the student's tokens; None where they are the same.
    """

    directory: Path
    layers: Sequence[int]
    to_teacher: Sequence[int] | None = None


@together
def train_encoder(
    make: Make,
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
    grids: Mapping[str, TensorGrid] | None = None,
) -> dict[str, Any]:
    """Train `model_dir` on the texts, and write `work/adapter` (LoRA, with the head) or `work/model`, and `train.json`.

    Resumes as `distill.train.train`.

    Args:
        make: of the student's kind; called where nothing finished is there.
        signal: as of `Lesson`.
        teacher: for the terms on intermediate layers.
        grids: as `distill.train.train`.

    Returns:
        what train.json holds, with counts in place of its curves; `supervised_tokens` counts texts.

    Raises:
        UserError: rows, cache, layers or widths that don't fit, modules that don't exist, a run that diverged.
    """
    result = Path(work) / ("adapter" if lora else "model")
    if (facts := finished(result)) is not None:
        return facts
    from distill2edge.distill.fake_quantization import install
    from distill2edge.distill.objective import objective_of

    set_up(seed)
    maps = any(loss.weighed("attentions"))
    dropout = getattr(training, "dropout", None)
    student = load_encoder(
        model_dir, lora, attention=maps, checkpointing=training.gradient_checkpointing, dropout=dropout
    )
    beside = None
    if loss.needs_layers:
        assert teacher is not None, "the terms on intermediate layers need the teacher"
        beside = open_beside(teacher, loss, student.config)
    dtype, lesson = compute_dtype(training.dtype, default_device()), Lesson(train_rows, signal, loss)
    fake_quantized = {} if grids is None else install(student, grids, dtype)
    model, texts = make(student, objective_of(loss), beside, dtype, lesson)
    model.fake_quantized = fake_quantized
    record = run_training(
        model,
        texts(train_rows),
        texts(validation_rows) if validation_rows else None,
        model.collator(),
        training,
        result,
        "training loss",
        seed,
        progress,
    )
    return facts_of(record)


def load_encoder(
    model_dir: Path,
    lora: schema.Lora | None,
    *,
    attention: bool = False,
    checkpointing: bool = False,
    dropout: float | None = None,
) -> nn.Module:
    """The encoder to train, in float32: in full, or adapters and the head.

    Args:
        attention: its attention maps are read, which the fast kernels do not give.
        checkpointing, dropout: as `distill.train.load_student`.

    Raises:
        UserError: modules that LoRA can't be put on.
    """
    import torch

    options = {"attn_implementation": "eager"} if attention else {}
    base = load_model(model_dir, dtype=torch.float32, **options)
    set_dropout(base, dropout)
    if checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    if shape_of(base.config).layers == 0:  # a table of token vectors: what a BERT adds to it stays as it is
        base.requires_grad_(False)
        base.get_input_embeddings().requires_grad_(True)
    if lora is None:
        return base  # type: ignore[no-any-return]
    from peft import LoraConfig, get_peft_model

    # The head is everything outside the body: new, small, and trained as it is. An embedder is a body alone.
    prefix = f"{base.base_model_prefix}." if hasattr(base, base.base_model_prefix) else ""
    heads = [
        name for name, child in base.named_children()
        if prefix and f"{name}." != prefix and any(True for _ in child.parameters())
    ]  # fmt: skip
    linear = [
        name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear) and name.startswith(prefix)
    ]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=linear if lora.targets == "all-linear" else list(lora.targets),
        modules_to_save=heads or None,
        task_type=kind_of_model(base).adapter,
    )
    try:
        student = get_peft_model(base, config)
    except ValueError as error:
        raise UserError(f"LoRA can't be put on these modules: {error}", where="student.lora.targets",
                        fix="use all-linear, or names that the model has") from error  # fmt: skip
    config.base_model_name_or_path = "student"  # no path of this machine in the artifact
    return student


def open_beside(beside: Beside, loss: schema.Loss, config: Any) -> LayerTeacher:
    """The teacher beside the student, and the pairs of layers, checked.

    Raises:
        UserError: a map of another length or out of range, other widths or heads.
    """
    import torch

    from distill2edge.distill.module import LayerTeacher

    options = {"attn_implementation": "eager"} if any(loss.weighed("attentions")) else {}
    teacher = load_model(beside.directory, dtype=torch.float32, **options).eval().requires_grad_(False)
    check_layer_map(beside.layers, config, teacher.config, loss)
    to_teacher = None if beside.to_teacher is None else torch.tensor(beside.to_teacher)
    return LayerTeacher(teacher, list(beside.layers), to_teacher)


def check_layer_map(layers: Sequence[int], student: Any, teacher: Any, loss: schema.Loss) -> None:
    """Refuse a layer map that does not fit the two configurations.

    Raises:
        UserError: what is wrong, and the fix.
    """
    where, total = "distill.loss.layer_map", teacher.num_hidden_layers
    if len(layers) != student.num_hidden_layers:
        raise UserError(
            f"{len(layers)} layers for a student of {student.num_hidden_layers}",
            where=where,
            fix="name one of the teacher's layers for each of the student's",
        )
    if wrong := [layer for layer in layers if not 0 <= layer < total]:
        raise UserError(
            f"layer {wrong[0]} is out of range: the teacher has {total} layers",
            where=where,
            fix=f"use 0 to {total - 1}",
        )
    sizes = {"hidden_states": ("width", "hidden"), "attentions": ("heads", "heads")}
    for term, _ in loss.weighed(*sizes):
        what, key = sizes[term.needs]
        ours, theirs = (getattr(shape_of(config), key) for config in (student, teacher))
        if ours != theirs:
            raise UserError(
                f"{term.label} of {what} {ours} and {theirs} cannot be compared",
                where=f"distill.loss.{term.name}",
                fix="set it to 0, or use student.init: {from: teacher, layers: N}",
            )
