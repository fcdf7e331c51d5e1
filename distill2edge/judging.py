"""The `judge` stage of a recipe with a judge model. The graph part; the comparison itself is in `judge`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distill2edge import steps
from distill2edge.models import encoding_of
from distill2edge.pipeline import Inputs
from distill2edge.progress import Progress
from distill2edge.recipe.canonical import canonical
from distill2edge.recipe.judge import WHERE
from distill2edge.recipe.schema import Recipe
from distill2edge.schemes import is_compared
from distill2edge.tasks.base import Facts

Add = Callable[[str, Any, tuple[str, ...], Any], str]


def add_judge(
    add: Add,
    recipe: Recipe,
    progress: Progress,
    rows: Any,
    contents: Mapping[str, Any],
    parents: Sequence[str],
    exports: Sequence[str],
    teacher: str,
) -> None:
    """Add the stage that compares what the merged student and its files write with what the teacher writes.

    Args:
        add: of `stages.build_stages`: name, section, parents, what writes -> name.
        rows: the part of the data section that keys depend on.
        contents: what identifies the weights of the teacher and of the student's checkpoint, where it has one: a judge
            that is one of them is told aloud.
        parents: stages of rows, teacher, student and its last merge.
        exports: every export; those of the student that ship are judged.
        teacher: the stage of the model that answers as the teacher.

    Raises:
        UserError: no such judge.
        EnvironmentFault: a judge that can't be looked up.
    """
    from distill2edge.teacher.load import fingerprint
    from distill2edge.teacher.open import cpu_gguf, text_backend

    spec = recipe.verify.judge
    assert spec is not None
    content = fingerprint(spec.model, spec.revision, progress, f"{WHERE}.model")
    section = {
        "judge": canonical(spec),
        "content": content,
        "backends": [
            text_backend(recipe, progress),
            "transformers" if cpu_gguf(spec.model, progress) is None else "llama.cpp",
        ],
        "rows": rows,
    }
    shipped = [name for name in exports if name.startswith("export student/") and not is_compared(name)]
    akin = [who for who, own in contents.items() if own == content]
    for who in akin:  # said before anything runs
        progress.warn(f"the judge is the {who}'s own model, and models favour answers of their own: name another")
    add("judge", section, tuple(dict.fromkeys((*parents, *shipped))), partial(_write, recipe, teacher, akin))


def _write(recipe: Recipe, teacher: str, akin: list[str], work: Path, inputs: Inputs, progress: Progress) -> Facts:
    from distill2edge.data.encode import read_rows
    from distill2edge.judge.model import open_judge
    from distill2edge.judge.run import judge_students
    from distill2edge.tasks.causal_lm import load_tokenizer
    from distill2edge.teacher.open import cpu_gguf, open_generator

    spec = recipe.verify.judge
    assert spec is not None
    models, encodings = steps.measured(recipe, teacher, inputs)
    judge = open_judge(spec, work, progress, WHERE, gguf=cpu_gguf(spec.model, progress))
    facts = judge_students(
        [model for model in models if model.role == "student"],
        encoding_of("student", encodings),
        {row.id: row for row in read_rows(steps.rows_dir(inputs), "test")},
        load_tokenizer(inputs["student"].path / "model"),
        open_generator(recipe, steps.teacher_model(inputs), work, progress, f"{WHERE}.answer_tokens"),
        judge,
        spec,
        system=recipe.data.system if recipe.data.template == "chat" else None,
        akin=akin,
        seed=recipe.seed,
        work=work,
        progress=progress,
    )
    shutil.rmtree(work / "judge", ignore_errors=True)  # the fetched model
    return facts
