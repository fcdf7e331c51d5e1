"""The teacher of a recipe as something that writes text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.generation.generate import Generator, LocalGenerator
from distill2edge.intake.obtain import gguf_of

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe
    from distill2edge.util.progress import Progress


def open_generator(
    recipe: Recipe, model_dir: Path, work: Path, progress: Progress, where: str = "signal.max_new_tokens"
) -> Generator:
    """What writes for a recipe.

    Args:
        model_dir: the teacher as a Hugging Face directory, fitted where the recipe fits it; not read of an endpoint.
        work: directory of the stage; an endpoint keeps its answers there.
        where: the recipe's key of the length of an answer, for errors.

    Raises:
        UserError: no key in the environment, an address that is not one, a price that nobody knows.
    """
    teacher = recipe.teacher
    if teacher.url is not None:
        from distill2edge.generation.endpoint.generator import EndpointGenerator
        from distill2edge.teacher.endpoint_record import prices_of

        assert teacher.endpoint is not None
        return EndpointGenerator(teacher.url, teacher.endpoint, prices_of(teacher.endpoint), work, progress)
    backend = text_backend(recipe, progress)
    gguf = teacher_gguf(recipe, progress) if backend == "llama.cpp" else None
    return LocalGenerator(
        model_dir,
        template=recipe.data.template,
        backend=backend,
        gguf_path=gguf,
        where=where,
        placement=teacher.placement,
    )


def text_backend(recipe: Recipe, progress: Progress) -> str:
    """What runs the teacher when it writes: `transformers`, `llama.cpp` or `endpoint`.

    `auto` takes llama.cpp for an unfitted GGUF on a CPU: the faster one at one text and at a shard of texts that end by
    themselves, in a quarter of the memory. Where all texts are of one length, a batch of a small teacher is as fast or
    faster in transformers (benchmarks/results/synthesis.json).
    """
    from distill2edge.models.precision import default_device

    teacher = recipe.teacher
    if teacher.url is not None:
        return "endpoint"
    if teacher.backend != "auto":
        return teacher.backend
    fast = teacher_gguf(recipe, progress) is not None and default_device() == "cpu"
    return "llama.cpp" if fast else "transformers"


def cpu_gguf(model: str, progress: Progress) -> Path | None:
    """The GGUF behind a model's name, where llama.cpp shall write with it: on a CPU, as `auto` in `text_backend`."""
    from distill2edge.models.precision import default_device

    return gguf_of(model, progress) if default_device() == "cpu" else None


def teacher_gguf(recipe: Recipe, progress: Progress) -> Path | None:
    """The teacher's own GGUF; None where it has none, or a fit has changed the weights since."""
    teacher = recipe.teacher
    # A fit changes the weights: the original GGUF would silently be another teacher, so llama.cpp refuses it.
    return gguf_of(teacher.model, progress) if isinstance(teacher.model, str) and teacher.fit is None else None
