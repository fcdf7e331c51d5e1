"""What a teacher that runs here says of questions, as a pass over their shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from distill2edge.recipe.schema import Recipe
    from distill2edge.util.progress import Progress


@dataclass(frozen=True)
class Question:
    """A prompt and its answers as tokens; `id` is that of the row."""

    id: str
    prompt: list[int]
    choices: list[list[int]]

    @property
    def longest(self) -> int:
        """Tokens of the prompt and the longest of its answers."""
        return len(self.prompt) + max(map(len, self.choices))


@dataclass
class Likelihoods:
    """As `teacher.labels.Score`; the model is loaded for the first texts, and is not pickled.

    Attributes:
        load: opens the teacher.
        reads: what that opens.
    """

    load: Callable[[], Any]
    reads: tuple[Path, ...]
    _teacher: Any = field(default=None, init=False)

    def __call__(self, questions: Sequence[Question], done: Callable[[int], None]) -> Tensor:
        """[n, C] log-likelihoods of the answers."""
        import torch

        from distill2edge.teacher.choice_scores import choice_scores

        if self._teacher is None:
            self._teacher = self.load()
        prompts, choices = [each.prompt for each in questions], [each.choices for each in questions]
        return torch.from_numpy(choice_scores(self._teacher, prompts, choices, done))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_teacher": None}


def likelihoods(recipe: Recipe, teacher: Path, longest: int, progress: Progress) -> Likelihoods:
    """The pass of a recipe's teacher; `longest`: tokens of a question at most."""
    from distill2edge.generation.open_backend import open_backend
    from distill2edge.teacher.open_teacher import teacher_gguf

    backend = recipe.teacher.backend
    gguf = teacher_gguf(recipe, progress) if backend == "llama.cpp" else None
    load = partial(open_backend, backend, teacher, gguf, "auto", longest=longest, placement=recipe.teacher.placement)
    return Likelihoods(load, (teacher, *([] if gguf is None else [gguf])))
