"""The Trainer of distillation: what transformers' Trainer leaves open, and the callback that steers it."""

from __future__ import annotations

import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from distill2edge.distill.batches import IGNORED, Collator, LengthGrouped
from distill2edge.distill.fake_quantization import follow
from distill2edge.distill.shares import STANDS_IN, Shares, StandIns, marked
from distill2edge.errors import UserError
from distill2edge.processes import ranks
from distill2edge.util.files import replacing, sync, write_json
from distill2edge.util.interrupts import SIGNALS
from distill2edge.util.progress import Task

_FIGURES = ("loss", "eval_loss", "learning_rate", "grad_norm", "supervised", "tokens", "wall_s")
_WEIGHTS = "trainable.safetensors"
_COMPLETE = "complete"
_BEST = "best"


class DistillTrainer(Trainer):
    """Trains a module that computes its own loss: exact under gradient accumulation and on several processes,
    deterministic, small checkpoints.

    A step is that of one process, whatever their number: they share the rows of each micro-batch, their gradients are
    summed, and the loss is divided by what all of them supervise in the step. A checkpoint holds the trainable weights
    alone, with the optimizer, schedule and random state beside them; process 0 writes it.

    Attributes:
        supervised_seen, tokens_seen: supervised, and all unpadded tokens so far, over all processes.
        asked_to_end: the signal that asks this process to end, or 0.
        ending: the same of any process, as all of them have agreed on before the step.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train: Any,
        validation: Any,
        collator: Collator,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=collator,
        )
        self.remove_callback(PrinterCallback)
        self.distilled = model
        self.output = Path(str(args.output_dir))
        self.supervised_seen = self.tokens_seen = self.asked_to_end = self.ending = 0
        self.wall_before = 0.0
        self.started = time.monotonic()
        self.best: tuple[float, int] | None = None  # validation loss, step

    @property
    def must_end(self) -> int:
        """The signal by which the training ends after this step, in every process; 0 where it goes on."""
        return self.asked_to_end if ranks.world() == 1 else self.ending

    @property
    def wall_s(self) -> float:
        """Seconds of training, those before a resume included."""
        return self.wall_before + time.monotonic() - self.started

    def get_train_dataloader(self) -> DataLoader[Any]:
        dataset: Any = self.train_dataset
        steps = -(-len(dataset) // self.args.train_batch_size)
        updates = -(-steps // self.args.gradient_accumulation_steps)
        grouped = not getattr(self.distilled, "packing", False)
        epoch = lambda: self.state.global_step // updates  # noqa: E731
        order = LengthGrouped(dataset.lengths, self.args.train_batch_size, self.args.seed, epoch, grouped=grouped)
        return self._shared(dataset, order)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        dataset: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._shared(dataset, range(len(dataset)))

    def _shared(self, dataset: Any, order: Any) -> DataLoader[Any]:
        """This process's rows of each micro-batch of the order."""
        batches = Shares(order, self.args.train_batch_size, ranks.rank(), ranks.world())
        collator: Any = self.data_collator
        pinned = bool(self.args.dataloader_pin_memory)
        return DataLoader(StandIns(dataset), batch_sampler=batches, collate_fn=marked(collator), pin_memory=pinned)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The micro-batches of a step, and what the loss of the step is divided by, over all processes."""
        samples = list(islice(epoch_iterator, num_batches))
        real = [batch for batch in samples if STANDS_IN not in batch]
        supervised = sum(int((batch["labels"] != IGNORED).sum()) for batch in real)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in real)
        asked = torch.tensor([supervised, tokens, self.asked_to_end])
        supervised, tokens, ending = ranks.total(asked).tolist()
        self.supervised_seen += supervised
        self.tokens_seen += tokens
        self.ending = ending and (self.asked_to_end or signal.SIGTERM)
        return samples, torch.tensor(float(supervised), device=device)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As Trainer's: that of a batch which stands in for none is 0, with the gradients that the others wait for."""
        self.distilled.stands_in = inputs.pop(STANDS_IN, False)
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        return loss * 0 if self.distilled.stands_in else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = super().create_optimizer(model)
        follow(made, getattr(self.distilled, "fake_quantized", {}).values())
        return made

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        seen = {"supervised": self.supervised_seen, "tokens": self.tokens_seen, "wall_s": self.wall_s}
        super().log({**logs, **seen}, start_time)

    @torch.no_grad()
    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Loss per supervised token over the validation set; keeps the weights when it is the least so far."""
        self.distilled.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for batch in self.get_eval_dataloader(eval_dataset):
            self.distilled.stands_in = batch.pop(STANDS_IN, False)
            result = self.distilled(**self._prepare_inputs(batch))
            if not self.distilled.stands_in:
                total += torch.stack([result["sum"].double(), result["count"].double()]).cpu()
        total = ranks.total(total)
        self.distilled.train()
        loss = float(total[0] / total[1])
        if self.best is None or loss < self.best[0]:
            self.best = (loss, self.state.global_step)
            if self.args.should_save:
                self._keep_best()
        metrics = {f"{metric_key_prefix}_loss": loss}
        self.log(metrics)
        return metrics

    def _keep_best(self) -> None:
        assert self.best is not None
        folder = self.output / _BEST
        with replacing(folder / _WEIGHTS) as temporary:
            save_file(trainable_state(self.distilled), temporary)
        write_json(folder / "best.json", {"loss": self.best[0], "step": self.best[1]})

    def load_best(self) -> int:
        """Put the weights of the least validation loss back, where they are written.

        Returns:
            the step they are of; the last one where there was no validation.
        """
        last: int = self.state.global_step
        if self.best is None:
            return last
        if self.best[1] != last and self.args.should_save:
            load_trainable(self.distilled, self.output / _BEST / _WEIGHTS)
        return self.best[1]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        folder = Path(output_dir) if output_dir else self.output
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trainable_state(self.distilled), folder / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trainable(self.distilled, Path(resume_from_checkpoint) / _WEIGHTS)


class Steering(TrainerCallback):
    """Decides when to log, evaluate and save; shows progress; stops on a signal with a checkpoint.

    Args:
        figures: called with every logged step (`Progress.figures`).
    """

    def __init__(
        self,
        trainer: DistillTrainer,
        task: Task,
        total: int,
        checkpoints: int,
        figures: Callable[[Mapping[str, float]], None],
    ) -> None:
        self.trainer, self.task, self.figures = trainer, task, figures
        self.total = total
        self.marks = {round(total * i / (checkpoints + 1)) for i in range(1, checkpoints + 1)} - {0, total}
        self.every = max(1, total // 50)
        self.loss = ""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.global_step:
            return
        last = [entry for entry in state.log_history if "tokens" in entry and entry["step"] <= state.global_step][-1]
        self.trainer.supervised_seen, self.trainer.tokens_seen = int(last["supervised"]), int(last["tokens"])
        self.trainer.wall_before = float(last["wall_s"])
        scores = [(float(e["eval_loss"]), int(e["step"])) for e in state.log_history if "eval_loss" in e]
        self.trainer.best = min(scores, default=None)
        self.task.advance(state.global_step)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Dropout depends on the step alone: loaders draw from the global generator, and at the start of a resumed
        # epoch not as often as in one run.
        torch.manual_seed((args.seed * 1_000_003 + state.global_step) * 1_009 + args.process_index)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step, last = state.global_step, state.global_step >= self.total
        mark = step in self.marks
        control.should_log = mark or last or step % self.every == 0
        control.should_save = mark
        control.should_evaluate = (mark or last) and self.trainer.eval_dataset is not None
        if self.trainer.must_end and not last:
            control.should_log = control.should_save = control.should_training_stop = True
        self.task.advance(1, self.loss)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        self.figures({"step": state.global_step, **{name: logs[name] for name in _FIGURES if name in logs}})
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise UserError(
                f"training diverged: the loss is {logs['loss']} at step {state.global_step}",
                where="learning_rate",
                fix=f"lower it (now {args.learning_rate:g}), or set dtype: float32",
            )
        self.loss = f"loss {logs['loss']:.4f}"

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not args.should_save:
            return
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        for path in folder.iterdir():
            sync(path)
        (folder / _COMPLETE).touch()

    @contextmanager
    def catching(self) -> Iterator[None]:
        """First request to end: finish the step and save. A second one is not caught; `nohup` holds."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.trainer.asked_to_end = number
            signal.signal(number, before[number])

        before: dict[int, Any] = {int(n): signal.getsignal(n) for n in SIGNALS}
        before = {n: handler for n, handler in before.items() if n == signal.SIGINT or handler != signal.SIG_IGN}
        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole; broken ones are removed."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        if (path / _COMPLETE).is_file():
            found.append((int(path.name.removeprefix("checkpoint-")), path))
        else:
            shutil.rmtree(path)
    return max(found)[1] if found else None


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Name to value of every trainable parameter, on the CPU."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def load_trainable(model: nn.Module, path: Path) -> None:
    """Set the trainable parameters from a file.

    Raises:
        ValueError: the file has other parameters.
    """
    saved = load_file(path)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if saved.keys() != own.keys():
        raise ValueError(f"{path} is of another model: {sorted(saved.keys() ^ own.keys())[:4]}")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(saved[name])


def log_entries(state: TrainerState, key: str) -> Sequence[dict[str, Any]]:
    """The log's entries that have `key`, by step, the latest of each step."""
    return list({entry["step"]: entry for entry in state.log_history if key in entry}.values())
