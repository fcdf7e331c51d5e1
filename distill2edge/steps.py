"""What each stage does: reads its parents' artifacts, calls the part that does the work, writes one artifact."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from distill2edge.files import read_json
from distill2edge.models import TORCH, Encodings, ModelFile
from distill2edge.pipeline import Inputs
from distill2edge.progress import Progress
from distill2edge.recipe.schema import Distill, FromModel, FromTeacher, Recipe
from distill2edge.recipe.scratch import Scratch, ScratchTeacher
from distill2edge.tasks import task_of
from distill2edge.tasks.base import Facts


def write_data(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `data` stage."""
    from distill2edge.data.prepare import prepare

    return prepare(recipe.data, recipe.seed, work, progress)


def write_teacher(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `teacher` stage."""
    from distill2edge.teacher.load import materialise

    teacher = recipe.teacher
    if isinstance(teacher.model, ScratchTeacher):
        from distill2edge.data.encode import read_rows
        from distill2edge.teacher.scratch import materialise_scratch

        return materialise_scratch(
            teacher.model,
            read_rows(inputs["data"].path, "train"),
            work,
            progress,
            licence=teacher.licence,
            accept_licence=teacher.accept_licence,
            max_length=recipe.data.max_length,
            seed=recipe.seed,
        )
    if teacher.url is not None:
        from distill2edge.teacher.endpoint.record import record_teacher

        return record_teacher(teacher, work, progress)
    own_layers = isinstance(recipe.student.init, FromTeacher)
    return materialise(
        teacher.model,
        teacher.revision,
        teacher.licence,
        teacher.accept_licence,
        work,
        progress,
        derivative=own_layers,
    )


def write_fit(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `fit` stage: trained on the data's own responses, then merged."""
    return task_of(recipe).fit(recipe, inputs["teacher"].path / "model", rows_dir(inputs), work, progress)


def write_synthesis(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `synthesis` stage: rows that the teacher makes, in the layout of the data's."""
    from distill2edge.ledger import Origin
    from distill2edge.synthesis.run import synthesise
    from distill2edge.teacher.open import open_generator

    assert recipe.synthesis is not None
    where = "synthesis.responses.max_new_tokens"
    return synthesise(
        recipe.synthesis,
        inputs["data"].path,
        open_generator(recipe, teacher_model(inputs), work, progress, where),
        work,
        progress,
        origin=Origin.of(inputs["teacher"].facts),
        template=recipe.data.template,
        system=recipe.data.system,
        seed=recipe.seed,
    )


def write_signal(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `signal` stage: the teacher's logits on train and validation rows, or the responses it writes."""
    facts = inputs["teacher"].facts if "teacher" in inputs else {}
    return task_of(recipe).signal(recipe, teacher_model(inputs), facts, rows_dir(inputs), work, progress)


def write_pretrain(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `pretrain` stage: an encoder's layers, distilled on masked tokens."""
    from distill2edge.tasks.classification import pretrain

    return pretrain(recipe, inputs["teacher"].path / "model", rows_dir(inputs), work, progress)


def write_student(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `student` stage."""
    init, checkpoint = recipe.student.init, None
    if isinstance(init, FromModel):
        from distill2edge.teacher.load import fetch_model

        fetched = work / "checkpoint"
        if isinstance(init.model, Scratch):
            from distill2edge.student.scratch import scratch_checkpoint

            scratch_checkpoint(init.model, teacher_model(inputs), fetched, recipe.seed)
        else:
            fetch_model(init.model, init.revision, fetched, progress, where="student.init.model")
        checkpoint = fetched / "model"
    if "pretrain" in inputs:
        checkpoint = inputs["pretrain"].path / "model"
    facts = task_of(recipe).student(recipe, teacher_model(inputs), checkpoint, rows_dir(inputs), work, progress)
    shutil.rmtree(work / "checkpoint", ignore_errors=True)
    return facts


def write_distill(
    recipe: Recipe,
    training: Distill,
    kind: str,
    student: str,
    signal: str | None,
    work: Path,
    inputs: Inputs,
    progress: Progress,
) -> Facts:
    """A `distill` stage, its control's too; `student` and `signal` name the stages it reads, None without a teacher."""
    return task_of(recipe).distill(
        recipe,
        training,
        kind,
        inputs[student].path / "model",
        teacher_model(inputs) if "fit" in inputs or "teacher" in inputs else None,
        inputs[signal].path if signal is not None else None,
        rows_dir(inputs),
        work,
        progress,
    )


def write_merge(recipe: Recipe, student: str, trained: str, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """A `merge` stage: `student` and `trained` name the stages of the model and of what was trained on it."""
    base = inputs[student].path / "model"
    facts = task_of(recipe).merge(recipe, base, inputs[trained].path, rows_dir(inputs), work)
    complete_model(recipe, work / "model", base)
    return facts


def write_verify(recipe: Recipe, teacher: str, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `verify` stage."""
    from distill2edge.tasks.shipped import check_tokenizers

    models, encodings = measured(recipe, teacher, inputs)
    trained = {"student": inputs["student"].path / "model"}
    if recipe.teacher.url is None:
        trained["teacher"] = inputs[teacher].path / "model"
    unlike = check_tokenizers(recipe, models, trained, rows_dir(inputs), progress)
    facts = task_of(recipe).verify(recipe, models, encodings, work, progress)
    return facts | ({"other_tokens": unlike} if unlike else {})


def write_bench(recipe: Recipe, teacher: str, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `bench` stage."""
    models, encodings = measured(recipe, teacher, inputs)
    return task_of(recipe).bench(recipe, models, encodings, work, progress)


def write_report(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `report` stage: JSON, page, Markdown and model card."""
    from distill2edge.rundir import write_documents

    return write_documents(recipe, inputs, work)


# --- what the steps share -----------------------------------------------------


def teacher_model(inputs: Inputs) -> Path:
    """The teacher's directory: fitted, where the recipe fits it."""
    return (inputs["fit"] if "fit" in inputs else inputs["teacher"]).path / "model"


def complete_model(recipe: Recipe, model_dir: Path, trained: Path) -> None:
    """Let a merged directory say how it was trained to read, with the tokenizer of `trained`: it may be shipped."""
    from distill2edge.data.inputs import form_of
    from distill2edge.handover.write import hand_over_model

    hand_over_model(model_dir, trained, form_of(recipe, model_dir))


def synthetic(inputs: Inputs) -> Facts:
    """For the metadata of files: what kinds of rows a teacher made, and how many were kept."""
    if "synthesis" not in inputs:
        return {}
    rows = inputs["synthesis"].facts["ledger"]
    methods = ", ".join(f"{name} {count}" for name, count in rows["methods"].items())
    human = f"; {rows['not_distillation']} kept rows are not distillation" if rows["not_distillation"] else ""
    return {"synthetic_rows": f"{rows['kept']} of {rows['rows']} rows kept ({methods}){human}"}


def rows_dir(inputs: Inputs) -> Path:
    """Where the splits lie that a stage reads: those of a synthesis, where the recipe has one."""
    return (inputs["synthesis"] if "synthesis" in inputs else inputs["data"]).path


def measured(recipe: Recipe, teacher: str, inputs: Inputs) -> tuple[list[ModelFile], dict[str, Encodings]]:
    """Every model that verify and bench look at, and the held-out rows in its tokens."""
    student_parameters = int(inputs["student"].facts["parameters"])
    teacher_parameters, models = 0, []
    if recipe.teacher.url is None:
        teacher_parameters = int(inputs["teacher"].facts["parameters"])
        models.append(_dense("teacher", inputs[teacher].path / "model", teacher_parameters))
    for name in inputs:
        kind, _, rest = name.partition(" ")
        if kind == "merge":
            models.append(_dense(rest or "student", inputs[name].path / "model", student_parameters))
        elif kind == "export":
            role, _, scheme = rest.partition("/")
            models.append(
                ModelFile(
                    id=rest,
                    role=role,  # type: ignore[arg-type]
                    scheme=scheme,
                    runtime="onnxruntime" if scheme.startswith("onnx:") else "llama.cpp",
                    path=inputs[name].path,
                    parameters=teacher_parameters if role == "teacher" else student_parameters,
                    size_bytes=int(read_json(inputs[name].path / "export.json")["size_bytes"]),
                )
            )
    tokenizers = {"teacher": inputs[teacher].path / "model", "student": inputs["student"].path / "model"}
    task, rows = task_of(recipe), rows_dir(inputs)
    if recipe.teacher.url is not None:  # it has no tokens here: everything is counted in the student's
        return models, {"teacher": task.held_out(recipe, tokenizers["student"], rows)}
    encodings = {role: task.held_out(recipe, directory, rows) for role, directory in tokenizers.items()}
    if encodings["student"].vocabulary == encodings["teacher"].vocabulary:
        del encodings["student"]
    else:
        encodings = _paired(encodings)
    return models, encodings


def _dense(role: str, model_dir: Path, parameters: int) -> ModelFile:
    size = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    return ModelFile(role, role, TORCH, "torch", model_dir, parameters, size)  # type: ignore[arg-type]


def _paired(encodings: dict[str, Encodings]) -> dict[str, Encodings]:
    """Only the rows that fit the length limit in both vocabularies."""
    common = set.intersection(*({row.row for row in side.rows} for side in encodings.values()))
    paired = {}
    for role, side in encodings.items():
        kept = [index for index, row in enumerate(side.rows) if row.row in common]
        choices = None if side.choices is None else [side.choices[index] for index in kept]
        paired[role] = replace(side, rows=[side.rows[index] for index in kept], choices=choices)
    return paired
