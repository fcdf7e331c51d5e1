"""Whose hands make the shards of a stage: this process's, or those of the recipe's workers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe
    from distill2edge.util.progress import Progress


@contextmanager
def by_workers(recipe: Recipe, model_dir: Path, progress: Progress) -> Iterator[None]:
    """Let the workers of a recipe, where it has some, make the shards of a model's passes while the block runs.

    Raises:
        EnvironmentFault: as `workers.mapping.shared_out`.
    """
    from distill2edge.workers.mapping import shared_out

    workers = recipe.teacher.workers
    weights = 0
    if workers is not None and (weights := file_weights(recipe, progress)) == 0:
        from distill2edge.intake.facts import model_facts
        from distill2edge.planning.costs import worker_weights

        weights = worker_weights(recipe, model_facts(model_dir).parameters, 0)
    with shared_out(workers, progress, weights):
        yield


def file_weights(recipe: Recipe, progress: Progress) -> int:
    """Bytes that each worker holds of a GGUF that llama.cpp runs; 0 where PyTorch runs the teacher.

    Raises:
        UserError: workers with GPUs, which llama.cpp does not use.
    """
    from distill2edge.teacher.open_teacher import teacher_gguf, text_backend

    workers, teacher = recipe.teacher.workers, recipe.teacher
    assert workers is not None
    backend = text_backend(recipe, progress) if recipe.signal.kind == "text" else teacher.backend
    if backend != "llama.cpp":
        return 0
    if workers.gpus:
        raise UserError(
            "llama.cpp writes with this teacher's GGUF, on a CPU", where="teacher.workers.gpus",
            fix="set it to 0, or teacher.backend: transformers",
        )  # fmt: skip
    gguf = teacher_gguf(recipe, progress)
    return 0 if gguf is None else gguf.stat().st_size
