"""On-policy distillation: the graph's part and the steps of it (Agarwal et al. 2024, arXiv 2306.13649, algorithm 1).

Every round is three stages like any other (`signal`, `distill`, `merge`), cached and resumed by the store. Within a
round the student that writes stays the same, so the samples of a round's last step are a round old.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge import steps
from distill2edge.checkpoint import load_tokenizer
from distill2edge.errors import UserError
from distill2edge.files import write_text
from distill2edge.pipeline import Inputs
from distill2edge.progress import Progress
from distill2edge.recipe.canonical import canonical
from distill2edge.recipe.on_policy import OnPolicy
from distill2edge.recipe.schema import Distill, LogitsSignal, Loss, Recipe, TextSignal
from distill2edge.tasks.base import Facts

if TYPE_CHECKING:
    from distill2edge.data.encode import Encoded, Row

Add = Callable[[str, Any, tuple[str, ...], Any], str]
WARM = " warm-start"
"""Suffix of the stages before the first round."""
_SHARD = 64  # prompts between two writes to the disk
_SEEDS = 7919  # between the seeds of two rounds, so that no round draws what another drew


def add_on_policy(add: Add, recipe: Recipe, rows: Any, data: str, teacher: str, warm: str) -> str:
    """Add the stages of every round; the last carries the plain names.

    Args:
        add: of `stages.build_stages`: name, section, parents, what writes -> name.
        rows: the part of the data section that keys depend on.
        data, teacher, warm: names of those stages; `warm` is the merge before the first round.

    Returns:
        name of the last merge.
    """
    spec = recipe.distill.on_policy
    assert spec is not None
    model = warm
    for number in range(1, spec.rounds + 1):
        suffix = "" if number == spec.rounds else f" on-policy {number}"
        training = training_of(recipe.distill, spec)
        section = {"on_policy": canonical(spec), "signal": canonical(recipe.signal), "rows": rows, "round": number}
        signal = add(
            f"signal on-policy {number}",
            section,
            (data, teacher, model),
            partial(_write_signal, recipe, teacher, model, number),
        )
        section = {
            "distill": canonical(training, {"control", "quantization_aware"}),
            "lora": canonical(recipe.student.lora),
            "rows": rows,
        }
        trained = add(
            f"distill{suffix}",
            {**section, "signal": "logits", "round": number},
            (data, model, signal),
            partial(_write_distill, recipe, training, model, signal, number),
        )
        model = add(
            f"merge{suffix}", {"rows": rows}, (data, model, trained), partial(steps.write_merge, recipe, model, trained)
        )
    return model


def training_of(distill: Distill, spec: OnPolicy) -> Distill:
    """The training of one round: the recipe's, with the loss, length and rate of the rounds."""
    loss = Loss(ce=0.0, forward_kl=spec.forward_kl, reverse_kl=spec.reverse_kl, jsd=spec.jsd, jsd_beta=spec.jsd_beta)  # type: ignore[call-arg]
    rate = distill.learning_rate / 5 if spec.learning_rate is None else spec.learning_rate
    own = {"loss": loss, "epochs": spec.epochs, "learning_rate": rate, "on_policy": None, "control": False}
    return distill.model_copy(update=own)


def turn(count: int, size: int, number: int) -> list[int]:
    """Which of `count` rows round `number` (from 1) takes: `size` of them, going on where the last round ended."""
    size = min(size, count)
    return [((number - 1) * size + at) % count for at in range(size)]


def kept_response(at: int, share: float) -> bool:
    """Whether the prompt at place `at` of a round keeps the data's response: `share` of them do, evenly spread."""
    return math.floor((at + 1) * share) > math.floor(at * share)


def _write_signal(
    recipe: Recipe, teacher: str, model: str, number: int, work: Path, inputs: Inputs, progress: Progress
) -> Facts:
    """What the student writes, and the teacher's distribution at each token of it; also on the rows of the data."""
    from distill2edge.tasks.causal_lm import encode, encode_rows
    from distill2edge.teacher.logits import cache_logits

    spec, rows = recipe.distill.on_policy, steps.rows_dir(inputs)
    assert spec is not None
    assert isinstance(recipe.signal, LogitsSignal)
    student_dir, teacher_dir = inputs[model].path / "model", inputs[teacher].path / "model"
    own, asked = _shared(spec, rows, number)
    ended = _write_texts(recipe, spec, student_dir, [row.prompt for row in asked], number, work, progress)
    written = read_written(work)
    given = [*encode_rows(recipe, own, teacher_dir), *encode(recipe, rows, teacher_dir, "validation")]
    facts = cache_logits(teacher_dir, [*written, *given], recipe.signal, work, progress)
    tokens = sum(row.supervised for row in written)
    return {**facts, "written": len(written), "written_tokens": tokens, "ended": ended}


def _shared(spec: OnPolicy, rows_dir: Path, number: int) -> tuple[list[Row], list[Row]]:
    """The rows of a round: those that keep the data's response, and those whose prompt the student answers."""
    from distill2edge.data.encode import read_rows

    rows = read_rows(rows_dir, "train")
    if spec.warm_rows is not None and spec.warm_rows < len(rows):
        scored, fresh = rows[: spec.warm_rows], rows[spec.warm_rows :]
        keep = round(spec.rows * spec.data_share)
        own = [scored[at] for at in turn(len(scored), keep, number)]
        return own, [fresh[at] for at in turn(len(fresh), spec.rows - keep, number)]
    taken = [rows[at] for at in turn(len(rows), spec.rows, number)]
    kept = [kept_response(at + number, spec.data_share) for at in range(len(taken))]
    own = [row for row, keep in zip(taken, kept, strict=True) if keep]
    return own, [row for row, keep in zip(taken, kept, strict=True) if not keep]


def _write_texts(
    recipe: Recipe, spec: OnPolicy, model_dir: Path, prompts: Sequence[str], number: int, work: Path, progress: Progress
) -> int:
    """Shards `written-00000.json` of the student's samples; returns how many ended by themselves."""
    from distill2edge.data.encode import encode_prompts, stop_token_ids
    from distill2edge.teacher.writers import open_writer

    data = recipe.data
    tokenizer: Any = load_tokenizer(model_dir)
    stop = stop_token_ids(tokenizer, data.template)
    sampling = TextSignal(max_new_tokens=spec.max_new_tokens, temperature=spec.temperature)  # type: ignore[call-arg]
    writer, ended = None, 0
    with progress.task("student writes", len(prompts)) as task:
        for shard, begin in enumerate(range(0, len(prompts), _SHARD)):
            path = work / f"written-{shard:05d}.json"
            if not path.is_file():
                # The teacher reads every token of it, and its rows may be fewer than the student's.
                tokens = max(tokenizer.get_vocab().values()) + 1
                writer = writer or open_writer(model_dir, tokenizer, sampling, stop, "transformers", None, tokens)
                asked = encode_prompts(prompts[begin : begin + _SHARD], tokenizer, data.template, data.system)
                seed = (recipe.seed + _SEEDS * number) * 1_000_003 + shard
                answers = writer(asked, seed % (1 << 31))
                write_text(path, json.dumps(list(zip(asked, answers, strict=True))))
            ended += sum(bool(answer) and answer[-1] in stop for _, answer in json.loads(path.read_text()))
            task.advance(len(prompts[begin : begin + _SHARD]))
    return ended


def read_written(directory: Path) -> list[Encoded]:
    """The student's samples, every token of which is supervised. One that was cut is as good as one that ended.

    Raises:
        UserError: it wrote nothing.
    """
    from distill2edge.data.encode import Encoded, example_id

    rows = []
    for path in sorted(directory.glob("written-*.json")):
        for prompt, answer in json.loads(path.read_text()):
            mask = [False] * len(prompt) + [True] * len(answer)
            if prompt and answer:
                rows.append(Encoded(example_id(prompt + answer, mask), prompt + answer, mask))
    if not rows:
        raise UserError("the student wrote nothing", where="distill.on_policy", fix="raise distill.epochs")
    return list({row.id: row for row in rows}.values())


def _write_distill(
    recipe: Recipe,
    training: Distill,
    model: str,
    signal: str,
    number: int,
    work: Path,
    inputs: Inputs,
    progress: Progress,
) -> Facts:
    from distill2edge.distill.train import train
    from distill2edge.tasks.causal_lm import encode, encode_rows

    spec, rows = recipe.distill.on_policy, steps.rows_dir(inputs)
    assert spec is not None
    model_dir, written = inputs[model].path / "model", inputs[signal].path
    own, _ = _shared(spec, rows, number)
    return train(
        model_dir,
        [*read_written(written), *encode_rows(recipe, own, model_dir)],
        encode(recipe, rows, model_dir, "validation"),
        written,
        training,
        training.loss,
        recipe.student.lora,
        training.chunk,
        recipe.seed + _SEEDS * number,
        work,
        progress,
    )
