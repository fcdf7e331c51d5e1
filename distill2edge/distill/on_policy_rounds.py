"""What a round of on-policy distillation trains on (Agarwal et al. 2024, arXiv 2306.13649, algorithm 1).

Within a round the student that writes stays the same, so the samples of a round's last step are a round old.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.errors import UserError
from distill2edge.recipe.on_policy import OnPolicy
from distill2edge.recipe.schema import Distill, Loss

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded, Row


def training_of(distill: Distill, spec: OnPolicy) -> Distill:
    """The training of one round: the recipe's, with the loss, length and rate of the rounds."""
    loss = Loss(**spec.weights())
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


def shared_rows(spec: OnPolicy, rows_dir: Path, number: int) -> tuple[list[Row], list[Row]]:
    """The rows of a round: those that keep the data's response, and those whose prompt the student answers."""
    from distill2edge.data.split_files import read_rows

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


def read_written(directory: Path) -> list[Encoded]:
    """The student's samples, every token of which is supervised. One that was cut is as good as one that ended.

    Raises:
        UserError: it wrote nothing.
    """
    from distill2edge.data.examples import Encoded, example_id

    rows = []
    for path in sorted(directory.glob("written-*.json")):
        for prompt, answer in json.loads(path.read_text()):
            mask = [False] * len(prompt) + [True] * len(answer)
            if prompt and answer:
                rows.append(Encoded(example_id(prompt + answer, mask), prompt + answer, mask))
    if not rows:
        raise UserError("the student wrote nothing", where="distill.on_policy", fix="raise distill.epochs")
    return list({row.id: row for row in rows}.values())
