"""Training a student, a teacher's fit or a control arm: one function, resumable, on transformers' Trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data.full_tokens import named_in_full
from distill2edge.distill.loop import facts_of, finished, run_training, set_dropout, set_up
from distill2edge.errors import UserError
from distill2edge.models.id_map import read_map
from distill2edge.models.kinds import DECODER, ENCODER_DECODER, kind_of_model
from distill2edge.models.loading import load_model
from distill2edge.models.precision import compute_dtype, default_device
from distill2edge.processes.group import together
from distill2edge.recipe import schema
from distill2edge.recipe.loss_terms import CE
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distill2edge.data.examples import Encoded
    from distill2edge.distill.decoder_model import DistillModel
    from distill2edge.distill.logit_cache import SignalReader
    from distill2edge.quantize.scales import TensorGrid

_MAMBA, _BYPASSED = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"), ["out_proj"]
"""Families whose kernels multiply some weights by themselves, past an adapter: peft refuses those modules."""


@together
def train(
    model_dir: Path,
    train_rows: Sequence[Encoded],
    validation_rows: Sequence[Encoded],
    signal_dir: Path | None,
    training: schema.Training,
    loss: schema.Loss,
    lora: schema.Lora | None,
    chunk: int,
    seed: int,
    work: Path,
    progress: Progress,
    grids: Mapping[str, TensorGrid] | None = None,
) -> dict[str, Any]:
    """Train `model_dir` on the rows, and write `work/adapter` (LoRA) or `work/model` (full), and `work/train.json`.

    Leftovers of a killed try in `work` are taken up from their last checkpoint. On a request to end (`signals`) the
    step is finished and a checkpoint saved first.

    Args:
        validation_rows: scored at every checkpoint and at the end, the best weights are kept; may be empty. Scored
            with the training loss where all are in the logit cache, else by cross-entropy.
        signal_dir: logit cache that has every training row, or None where `loss` is cross-entropy alone.
        chunk: supervised positions whose logits are in memory at once.
        grids: weight's name -> the grid that the forward pass rounds it to (quantization-aware training); the weights
            written are those behind the grid, in full precision.

    Returns:
        what train.json holds, with counts in place of its curves.

    Raises:
        UserError: rows and cache don't fit, modules that don't exist, an architecture that is not supported.
        Stopped: by a signal, after the checkpoint.
    """
    result = Path(work) / ("adapter" if lora else "model")
    if (facts := finished(result)) is not None:
        return facts
    import torch

    from distill2edge.distill.batches import Examples
    from distill2edge.distill.objective import GOLD

    reader = _open_signal(signal_dir) if loss.needs_logits else None
    if reader is not None:
        rows = train_rows, validation_rows
        reader, train_rows, validation_rows = _in_students_tokens(reader, model_dir, *rows, progress)
    examples = Examples(train_rows, reader)
    same_loss = reader is None or not reader.missing(row.id for row in validation_rows)
    validation = Examples(validation_rows, reader if same_loss else None) if validation_rows else None
    set_up(seed)
    model = _open_model(model_dir, training, loss, lora, chunk, reader.temperature if reader else 1.0, grids)
    model.check_head(torch.tensor([train_rows[0].ids[:16]]))
    if training.packing:
        model.packing = True
        model.check_packing(max(train_rows[:64], key=lambda row: len(row.ids)).ids)
    if validation is not None and not same_loss:
        model.eval_objective = GOLD
    scored = "training loss" if same_loss else CE
    record = run_training(model, examples, validation, model.collator(), training, result, scored, seed, progress)
    return facts_of(record)


def _in_students_tokens(
    reader: SignalReader,
    model_dir: Path,
    train_rows: Sequence[Encoded],
    validation_rows: Sequence[Encoded],
    progress: Progress,
) -> tuple[SignalReader, Sequence[Encoded], Sequence[Encoded]]:
    """A cache in the full vocabulary's ids and the rows of a student that has fewer, so that they find each other.

    A validation row that the student reads in other tokens than the teacher has no signal, and is left out.
    """
    ids = read_map(model_dir)
    if ids is None or ids.full != reader.vocabulary:
        return reader, train_rows, validation_rows
    rows = named_in_full(validation_rows, ids)
    found = [row for row in rows if row.id in reader]
    if found and len(found) < len(rows):
        progress.say(
            f"  {len(rows) - len(found)} of {len(rows)} validation rows are left out: with its trimmed vocabulary the "
            "student reads them in other tokens than the teacher"
        )
    return reader.trimmed(ids), named_in_full(train_rows, ids), found or rows


def _open_signal(directory: Path | None) -> SignalReader:
    from distill2edge.distill.logit_cache import SignalReader

    if directory is None:
        raise UserError(
            "the loss compares with the teacher, but there is no logit cache",
            where="distill.loss",
            fix="set signal: {kind: logits}, or distill.loss: {ce: 1}",
        )
    return SignalReader(directory)


def _open_model(
    model_dir: Path,
    training: schema.Training,
    loss: schema.Loss,
    lora: schema.Lora | None,
    chunk: int,
    temperature: float,
    grids: Mapping[str, TensorGrid] | None,
) -> DistillModel:
    """The student in a module with its loss, its weights rounded to their grids where there are any."""
    import torch

    from distill2edge.distill.decoder_model import DistillModel
    from distill2edge.distill.fake_quantization import install
    from distill2edge.distill.objective import objective_of
    from distill2edge.distill.seq2seq_model import Seq2SeqDistillModel

    dtype = compute_dtype(training.dtype, default_device())
    # A grid is applied to W + B A in full precision: a base in 16 bits would round W first.
    kept = dtype if grids is None else torch.float32
    dropout = getattr(training, "dropout", None)
    student = load_student(model_dir, lora, kept, checkpointing=training.gradient_checkpointing, dropout=dropout)
    fake_quantized = {} if grids is None else install(student, grids, dtype)
    modules = {DECODER: DistillModel, ENCODER_DECODER: Seq2SeqDistillModel}
    model = modules[kind_of_model(student)](student, objective_of(loss), temperature, chunk, dtype)
    model.fake_quantized = fake_quantized
    return model


def load_student(
    model_dir: Path,
    lora: schema.Lora | None,
    dtype: torch.dtype,
    *,
    checkpointing: bool = False,
    dropout: float | None = None,
) -> nn.Module:
    """The model to train: frozen in `dtype` with float32 adapters, or float32 in full (products under autocast).

    Args:
        checkpointing: keep the inputs of each layer alone, and run it again in the backward pass.
        dropout: share of every dropout, in place of what the configuration says; None leaves it.
    """
    import torch

    base = load_model(model_dir, dtype=dtype if lora else torch.float32)
    if getattr(base.config, "quantization_config", None) is not None:
        raise UserError("the base is quantized", where=str(model_dir), fix="train from 16 or 32-bit weights")
    base.config.use_cache = False
    set_dropout(base, dropout)
    if checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
    if lora is None:
        return base
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.targets if lora.targets == "all-linear" else list(lora.targets),
        exclude_modules=_BYPASSED if lora.targets == "all-linear" and base.config.model_type in _MAMBA else None,
        task_type=kind_of_model(base).adapter,
    )
    try:
        student = get_peft_model(base, config)
    except ValueError as error:
        raise UserError(f"LoRA can't be put on these modules: {error}", where="student.lora.targets") from error
    if dtype != torch.float32:
        # Products run under autocast: without this, peft turns every input to float32 and autocast turns it back.
        for module in student.modules():
            if hasattr(module, "cast_input_dtype_enabled"):
                module.cast_input_dtype_enabled = False
    config.base_model_name_or_path = "student"  # no path of this machine in the artifact
    if base.config.tie_word_embeddings:
        for module in (base.get_input_embeddings(), base.get_output_embeddings()):
            if hasattr(module, "base_layer"):
                raise UserError(
                    "embedding and output head are one matrix: an adapter on one of them can't be merged",
                    where="student.lora.targets",
                    fix="leave the embedding and the head out, or train in full (lora: null)",
                )
    return student
