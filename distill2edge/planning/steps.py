"""Steps of a training, the work of one, and how often it asks the validation rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill2edge.planning.sizes import Sizes
    from distill2edge.recipe.schema import Recipe
    from distill2edge.recipe.training import Lora, Training


@dataclass(frozen=True)
class Evaluation:
    """What the validation rows cost while the student is trained.

    Attributes:
        times: that they are asked: at each checkpoint and at the end.
        rows: of the split.
        share: of the work of the training's own steps, by the body's products.
    """

    times: int
    rows: int
    share: float


def evaluation_of(recipe: Recipe, sizes: Sizes) -> Evaluation | None:
    """The evaluation of the student's training; None without validation rows."""
    training, rows = recipe.distill, sizes.rows["validation"]
    if not rows:
        return None
    steps, batch = steps_of(training, sizes.train)
    times = evaluations(training, steps)
    return Evaluation(times, rows, times * rows * 2 / (steps * batch * per_token_of(recipe.student.lora)))


def steps_of(training: Training, rows: int) -> tuple[int, int]:
    """Optimizer steps of a training on so many rows, and rows of each."""
    rows = min(rows, getattr(training, "max_rows", None) or rows)
    batch = training.batch_size * training.gradient_accumulation
    steps = max(1, math.ceil(training.epochs * math.ceil(rows / batch)))
    return min(steps, training.max_steps or steps), batch


def evaluations(training: Training, steps: int) -> int:
    """How often the validation rows are asked: at each checkpoint, of which a step has one, and at the end."""
    return min(training.checkpoints, steps - 1) + 1


def per_token_of(lora: Lora | None) -> int:
    """FLOPs per weight and token of a training step."""
    return 4 if lora is not None else 6
