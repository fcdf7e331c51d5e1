"""One training run on transformers' Trainer: schedule, checkpoints, resume, the best weights, and its record."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.distill.tracking import end_tracking, trackers
from distill2edge.recipe import schema
from distill2edge.util.files import read_json, write_json
from distill2edge.util.interrupts import Stopped
from distill2edge.util.machine import peak_rss_bytes
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from distill2edge.distill.batches import Collator
    from distill2edge.distill.trainer import DistillTrainer

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def run_training(
    model: Any,
    examples: Any,
    validation: Any,
    collator: Collator,
    training: schema.Training,
    result: Path,
    eval_loss: str,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Train, and write `result` (`adapter` or `model`) and `train.json` beside it.

    Leftovers of a killed try are taken up from their last checkpoint, whatever the number of processes then and now. On
    a request to end (`signals`) the step is finished and a checkpoint saved first.

    Args:
        model: a module with `student`, `dtype`, and a forward pass that returns `loss`, `sum` and `count` of a batch.
        examples: a data set with `lengths`, one per example, by which rows are grouped.
        validation: the same, scored at every checkpoint and at the end, the best weights are kept; or None.
        collator: examples -> batch, with `attention_mask` and `labels`; labels other than -100 are what losses divide
            by.
        eval_loss: what the validation loss is, in words.

    Returns:
        what train.json holds.

    Raises:
        UserError: training diverged.
        Stopped: by a signal, after the checkpoint (or the result, where the last step was under way).
    """
    from distill2edge.distill.trainer import DistillTrainer
    from distill2edge.processes import ranks

    work = result.parent
    checkpoints = work / "checkpoints"
    names, project = trackers(progress.stage) if ranks.rank() == 0 else ([], "")
    tracked = {"report_to": names or "none", "project": project, "run_name": f"{project}/{progress.stage}"}
    args = arguments(training, checkpoints, seed, len(examples), tracked)
    total = args.max_steps
    trainer = DistillTrainer(model, args, examples, validation, collator)
    _steer(trainer, checkpoints, training.checkpoints, progress)
    end_tracking(names)
    if trainer.must_end and trainer.state.global_step < total:
        progress.say(
            f"stopped at step {trainer.state.global_step} of {total}; a checkpoint is saved: "
            "run the same command again to resume from it"
        )
        raise Stopped(trainer.must_end)
    record = _record(trainer, model.dtype, eval_loss)
    if args.should_save:
        _write(model.student, result)
        write_json(work / "train.json", record)
        shutil.rmtree(checkpoints, ignore_errors=True)
    if ended := trainer.must_end or trainer.asked_to_end:  # in the last step: the training is done, the run ends here
        raise Stopped(ended)
    return record


def _steer(trainer: DistillTrainer, checkpoints: Path, marks: int, progress: Progress) -> None:
    """Train from the last checkpoint on, to the end or to a signal.

    Args:
        marks: checkpoints over the run.
    """
    from distill2edge.distill.trainer import Steering, last_checkpoint
    from distill2edge.processes import ranks

    total = trainer.args.max_steps
    resume = ranks.agreed(last_checkpoint(checkpoints) if ranks.rank() == 0 else None)
    if resume is not None:
        progress.say(f"  resuming from {resume.name} of {total} steps")
    with progress.task("train", total) as task:
        steering = Steering(trainer, task, total, marks, progress.figures)
        trainer.add_callback(steering)
        with steering.catching():
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume))


def finished(result: Path) -> dict[str, Any] | None:
    """The facts of a training whose result an earlier try has written; None where there is none."""
    record = result.parent / "train.json"
    return facts_of(read_json(record)) if record.is_file() and result.is_dir() else None


def set_up(seed: int) -> None:
    """Take the processor's threads, and seed every generator; called before the model is loaded."""
    import torch
    from transformers import set_seed

    from distill2edge.util.threads import available_threads

    torch.set_num_threads(min(torch.get_num_threads(), available_threads()))
    set_seed(seed)


def set_dropout(model: nn.Module, share: float | None) -> None:
    """Let every dropout of a model have this share, in place; None leaves them. Its configuration stays as it is."""
    from torch import nn

    for module in model.modules() if share is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = share
        # Attention reads its share as a number where a kernel applies it.
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, share)


def arguments(
    training: schema.Training, checkpoints: Path, seed: int, examples: int, tracked: dict[str, Any]
) -> TrainingArguments:
    """The recipe's section as the Trainer's arguments, steps counted; logging and saving are `Steering`'s."""
    import torch
    from transformers import TrainingArguments

    from distill2edge.processes import ranks

    world = ranks.world()
    # Left to itself the Trainer looks for GPUs alone: processes on a CPU would each train by themselves.
    joined = (
        {}
        if world == 1
        else {
            "use_cpu": not torch.cuda.is_available(),
            "ddp_backend": None if torch.cuda.is_available() else "gloo",
            "ddp_find_unused_parameters": True,
            "ddp_broadcast_buffers": False,
        }
    )
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
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_nan_inf_filter=False,
        seed=seed,
        **tracked,
        **joined,
    )
    assert args.world_size == world, (args.world_size, world)
    args._n_gpu = min(args.n_gpu, 1)  # never DataParallel, into which Trainer wraps a model where it sees two devices
    updates = -(-examples // (training.batch_size * training.gradient_accumulation))
    total = max(1, math.ceil(training.epochs * updates))
    if training.max_steps is not None:
        total = min(total, training.max_steps)
    args.max_steps, args.warmup_steps = total, math.ceil(training.warmup * total)
    return args


def _record(trainer: DistillTrainer, dtype: torch.dtype, eval_loss: str) -> dict[str, Any]:
    from distill2edge.distill.trainer import log_entries
    from distill2edge.processes import ranks

    steps, wall, best = trainer.state.global_step, trainer.wall_s, trainer.load_best()
    return {
        "schema_version": 1,
        "steps": steps,
        "kept_step": best,
        "supervised_tokens": trainer.supervised_seen,
        "tokens": trainer.tokens_seen,
        "tokens_per_s": trainer.tokens_seen / wall,
        "wall_s": wall,
        "peak_rss_bytes": peak_rss_bytes(),
        "dtype": str(dtype).removeprefix("torch."),
        **({"processes": ranks.world()} if ranks.world() > 1 else {}),
        "trainable_parameters": sum(p.numel() for p in trainer.distilled.parameters() if p.requires_grad),
        "eval_loss": eval_loss,
        "log": [
            {"step": e["step"], "loss": e["loss"], "lr": e["learning_rate"], "tokens": e["supervised"]}
            for e in log_entries(trainer.state, "loss")
        ],
        "eval": [{"step": e["step"], "loss": e["eval_loss"]} for e in log_entries(trainer.state, "eval_loss")],
    }


def facts_of(record: dict[str, Any]) -> dict[str, Any]:
    """What a stage says of train.json: its figures, with counts in place of its curves."""
    last = {
        "loss": record["log"][-1]["loss"],
        "validation_loss": min((e["loss"] for e in record["eval"]), default=None),
    }
    return {**{key: value for key, value in record.items() if key not in ("log", "eval")}, **last}


def _write(student: Any, result: Path) -> None:
    """Save under a temporary name, then rename. A directory called `adapter` gets the adapter alone."""
    partial = result.with_name(result.name + ".partial")
    for leftover in (partial, result):
        shutil.rmtree(leftover, ignore_errors=True)
    if result.name != "adapter":
        if hasattr(student.config, "use_cache"):
            student.config.use_cache = True
        student.save_pretrained(partial)
    else:
        # The embeddings are never trained beside an adapter; left to itself, peft asks the hub about them.
        student.save_pretrained(partial, save_embedding_layers=False)
    (partial / "README.md").unlink(missing_ok=True)  # peft's empty model card
    partial.rename(result)
