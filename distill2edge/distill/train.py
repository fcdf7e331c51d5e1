"""Training a student, a teacher's fit or a control arm: one function, resumable, on transformers' Trainer."""

from __future__ import annotations

import json
import math
import resource
import shutil
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.architectures import load_language_model, start_token_id
from distill2edge.errors import UserError
from distill2edge.files import write_json
from distill2edge.precision import compute_dtype, default_device
from distill2edge.progress import Progress
from distill2edge.recipe import schema

if TYPE_CHECKING:
    import torch
    from torch import nn

    from distill2edge.data.encode import Encoded
    from distill2edge.distill.trainer import DistillTrainer

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


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
) -> dict[str, Any]:
    """Train `model_dir` on the rows, and write `work/adapter` (LoRA) or `work/model` (full), and `work/train.json`.

    Leftovers of a killed try in `work` are taken up from their last checkpoint. On Ctrl-C or SIGTERM the step is
    finished and a checkpoint saved first.

    Args:
        validation_rows: scored at every checkpoint and at the end, the best weights are kept; may be empty. Scored
            with the training loss where all are in the logit cache, else by cross-entropy.
        signal_dir: logit cache that has every training row, or None where `loss` is cross-entropy alone.
        chunk: supervised positions whose logits are in memory at once.

    Returns:
        what train.json holds, with counts in place of its curves.

    Raises:
        UserError: rows and cache don't fit, modules that don't exist, an architecture that is not supported.
        KeyboardInterrupt, SystemExit: stopped by a signal, after the checkpoint.
    """
    work = Path(work)
    result = work / ("adapter" if lora else "model")
    if (work / "train.json").is_file() and result.is_dir():
        return _facts(json.loads((work / "train.json").read_text()))
    import torch
    import transformers
    from transformers import TrainingArguments

    from distill2edge.distill.batches import Examples, collate
    from distill2edge.distill.losses import Weights
    from distill2edge.distill.model import DistillModel
    from distill2edge.distill.seq2seq import Seq2SeqDistillModel, collate_pairs
    from distill2edge.distill.signal import SignalReader
    from distill2edge.distill.trainer import DistillTrainer, Steering, last_checkpoint
    from distill2edge.runtimes.threads import available_threads

    if loss.needs_logits and signal_dir is None:
        raise UserError(
            "the loss compares with the teacher, but there is no logit cache",
            where="distill.loss",
            fix="set signal: {kind: logits}, or distill.loss: {ce: 1}",
        )
    reader = SignalReader(signal_dir) if signal_dir is not None and loss.needs_logits else None
    weights = Weights(loss.ce, loss.forward_kl, loss.reverse_kl, loss.jsd, loss.jsd_beta)
    examples = Examples(train_rows, reader)
    same_loss = reader is None or not reader.missing(row.id for row in validation_rows)
    validation = Examples(validation_rows, reader if same_loss else None) if validation_rows else None

    torch.set_num_threads(min(torch.get_num_threads(), available_threads()))
    transformers.set_seed(seed)
    dtype = compute_dtype(training.dtype, default_device())
    student = load_student(model_dir, lora, dtype)
    pairs = bool(getattr(student.config, "is_encoder_decoder", False))
    kind = Seq2SeqDistillModel if pairs else DistillModel
    model = kind(student, weights, reader.temperature if reader else 1.0, chunk, dtype)
    model.check_head(torch.tensor([train_rows[0].ids[:16]]))
    pad = model.config.pad_token_id if isinstance(model.config.pad_token_id, int) else 0
    batch = partial(collate_pairs, pad=pad, start=start_token_id(model.config)) if pairs else partial(collate, pad=pad)
    checkpoints = work / "checkpoints"
    per_step = training.batch_size * training.gradient_accumulation
    args = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=training.batch_size,
        per_device_eval_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=_SCHEDULES[training.schedule],
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        max_steps=1,
        logging_strategy="no",
        save_strategy="no",
        save_total_limit=2,  # the newest may be half written when we are killed
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_nan_inf_filter=False,
        seed=seed,
    )
    updates = -(-len(train_rows) // (per_step * args.world_size))
    total = max(1, math.ceil(training.epochs * updates))
    if training.max_steps is not None:
        total = min(total, training.max_steps)
    args.max_steps, args.warmup_steps = total, math.ceil(training.warmup * total)

    trainer = DistillTrainer(model, args, examples, validation, batch)
    if validation is not None and not same_loss:
        model.eval_weights = Weights(ce=1.0)
    resume = last_checkpoint(checkpoints)
    if resume is not None:
        progress.say(f"  going on from {resume.name} of {total} steps")
    with progress.task("train", total) as task:
        steering = Steering(trainer, task, total, training.checkpoints)
        trainer.add_callback(steering)
        with steering.catching():
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    if steering.stopped_by is not None and trainer.state.global_step < total:
        progress.say(
            f"stopped at step {trainer.state.global_step} of {total}; a checkpoint is saved: "
            "run the same command again to go on from there"
        )
        if steering.stopped_by == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + steering.stopped_by)
    record = _record(trainer, dtype, "training loss" if same_loss else "cross-entropy")
    if args.should_save:
        _write(model.student, result, lora is not None)
        write_json(work / "train.json", record)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return _facts(record)


def load_student(model_dir: Path, lora: schema.Lora | None, dtype: torch.dtype) -> nn.Module:
    """The model to train: frozen in `dtype` with float32 adapters, or float32 in full (products under autocast)."""
    import torch

    base = load_language_model(model_dir, dtype=dtype if lora else torch.float32)
    if getattr(base.config, "quantization_config", None) is not None:
        raise UserError("the base is quantized", where=str(model_dir), fix="train from 16 or 32-bit weights")
    base.config.use_cache = False
    if lora is None:
        return base
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=lora.targets if lora.targets == "all-linear" else list(lora.targets),
        task_type="SEQ_2_SEQ_LM" if base.config.is_encoder_decoder else "CAUSAL_LM",
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


def _record(trainer: DistillTrainer, dtype: torch.dtype, eval_loss: str) -> dict[str, Any]:
    from distill2edge.distill.trainer import log_entries

    steps, wall, best = trainer.state.global_step, trainer.wall_s, trainer.load_best()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "schema_version": 1,
        "steps": steps,
        "kept_step": best,
        "supervised_tokens": trainer.supervised_seen,
        "tokens": trainer.tokens_seen,
        "tokens_per_s": trainer.tokens_seen / wall,
        "wall_s": wall,
        "peak_rss_bytes": peak if sys.platform == "darwin" else peak * 1024,
        "dtype": str(dtype).removeprefix("torch."),
        "trainable_parameters": sum(p.numel() for p in trainer.distilled.parameters() if p.requires_grad),
        "eval_loss": eval_loss,
        "log": [
            {"step": e["step"], "loss": e["loss"], "lr": e["learning_rate"], "tokens": e["supervised"]}
            for e in log_entries(trainer.state, "loss")
        ],
        "eval": [{"step": e["step"], "loss": e["eval_loss"]} for e in log_entries(trainer.state, "eval_loss")],
    }


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    last = {
        "loss": record["log"][-1]["loss"],
        "validation_loss": min((e["loss"] for e in record["eval"]), default=None),
    }
    return {**{key: value for key, value in record.items() if key not in ("log", "eval")}, **last}


def _write(student: Any, result: Path, adapter: bool) -> None:
    """Save under a temporary name, then rename."""
    partial = result.with_name(result.name + ".partial")
    for leftover in (partial, result):
        shutil.rmtree(leftover, ignore_errors=True)
    if not adapter:
        student.config.use_cache = True
        student.save_pretrained(partial)
    else:
        # The embeddings are never trained beside an adapter; left to itself, peft asks the hub about them.
        student.save_pretrained(partial, save_embedding_layers=False)
    (partial / "README.md").unlink(missing_ok=True)  # peft's empty model card
    partial.rename(result)
