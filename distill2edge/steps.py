"""What each stage does: reads its parents' artifacts, calls the part that does the work, writes one artifact."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.files import read_json
from distill2edge.models import TORCH, Encodings, ModelFile
from distill2edge.pipeline import Inputs
from distill2edge.progress import Progress
from distill2edge.recipe.schema import Distill, FromModel, FromTeacher, Loss, Recipe, Scratch, ScratchTeacher
from distill2edge.schemes import Scheme, parse_scheme

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill2edge.data.encode import Encoded, Row

Facts = dict[str, Any]

# The schemes for which the merge shows whether an adapter survives; one per kind of grid.
SURVIVAL = tuple(map(parse_scheme, ("onnx:int8", "onnx:int4-b32", "gguf:Q8_0", "gguf:Q4_K_M", "gguf:Q4_0")))


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
    fit = recipe.teacher.fit
    assert fit is not None
    base = inputs["teacher"].path / "model"
    train_rows = encode(recipe, inputs, base, "train")
    if fit.max_rows is not None:
        train_rows = train_rows[: fit.max_rows]
    from distill2edge.distill.train import train

    trained = work / "trained"
    facts = train(
        base,
        train_rows,
        encode(recipe, inputs, base, "validation"),
        None,
        fit,
        Loss(ce=1.0),
        fit.lora,
        Distill().chunk,
        recipe.seed,
        trained,
        progress,
    )
    from distill2edge.merge import merge

    merged = merge(base, trained, train_rows[:8], SURVIVAL, work)
    shutil.rmtree(trained)
    return {"train": facts, "merge": merged}


def write_signal(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `signal` stage: the teacher's logits on train and validation rows, or the responses it writes."""
    from distill2edge.teacher.load import gguf_of

    model_dir = teacher_model(inputs)
    # A fit changes the weights: the original GGUF would silently be another teacher, so the backend refuses it.
    llama = recipe.teacher.backend == "llama.cpp" and recipe.teacher.fit is None
    gguf = gguf_of(recipe.teacher.model, progress) if llama and isinstance(recipe.teacher.model, str) else None
    if recipe.signal.kind == "logits":
        from distill2edge.teacher.logits import cache_logits

        rows = [*encode(recipe, inputs, model_dir, "train"), *encode(recipe, inputs, model_dir, "validation")]
        return cache_logits(
            model_dir, rows, recipe.signal, work, progress, backend=recipe.teacher.backend, gguf_path=gguf
        )
    from distill2edge.data.encode import read_rows
    from distill2edge.ledger import Origin
    from distill2edge.teacher.text import write_responses

    assert recipe.signal.kind == "text"
    return write_responses(
        model_dir,
        read_rows(inputs["data"].path, "train"),
        recipe.signal,
        work,
        progress,
        template=recipe.data.template,
        system=recipe.data.system,
        seed=recipe.seed,
        backend=recipe.teacher.backend,
        gguf_path=gguf,
        origin=Origin.of(inputs["teacher"].facts),
        test=read_rows(inputs["data"].path, "test"),
    )


def write_student(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `student` stage."""
    from distill2edge.student.init import init_student
    from distill2edge.teacher.load import fetch_model

    model_dir, init = teacher_model(inputs), recipe.student.init
    checkpoint = None
    if isinstance(init, FromModel):
        fetched = work / "checkpoint"
        if isinstance(init.model, Scratch):
            from distill2edge.student.scratch import scratch_checkpoint

            scratch_checkpoint(init.model, model_dir, fetched, recipe.seed)
        else:
            fetch_model(init.model, init.revision, fetched, progress, where="student.init.model")
        checkpoint = fetched / "model"
    facts = init_student(
        recipe.student,
        model_dir,
        encode(recipe, inputs, model_dir, "calibration")[:32] if checkpoint is None else (),
        work,
        progress,
        checkpoint,
        same_vocabulary=recipe.signal.kind == "logits",
    )
    shutil.rmtree(work / "checkpoint", ignore_errors=True)
    return facts


def write_distill(
    recipe: Recipe, training: Distill, kind: str, work: Path, inputs: Inputs, progress: Progress
) -> Facts:
    """The `distill` stage, and its control."""
    from distill2edge.distill.train import train

    student = inputs["student"].path / "model"
    signal = inputs.get("signal") if kind != "gold" else None
    if kind == "text":
        from distill2edge.teacher.text import read_responses

        assert signal is not None
        rows = _encode(recipe, read_responses(signal.path), student)
    else:
        rows = encode(recipe, inputs, student, "train")
    return train(
        student,
        rows,
        encode(recipe, inputs, student, "validation"),
        signal.path if signal is not None and kind == "logits" else None,
        training,
        training.loss,
        recipe.student.lora,
        training.chunk,
        recipe.seed,
        work,
        progress,
    )


def write_merge(recipe: Recipe, trained: str, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `merge` stage."""
    from distill2edge.merge import merge

    student = inputs["student"].path / "model"
    rows = encode(recipe, inputs, student, "validation") or encode(recipe, inputs, student, "train")
    return merge(student, inputs[trained].path, rows[:8], SURVIVAL, work)


def write_export(
    recipe: Recipe,
    scheme: Scheme,
    source: str,
    role: str,
    converter: Path | None,
    work: Path,
    inputs: Inputs,
    progress: Progress,
) -> Facts:
    """The `export` stage of one scheme."""
    teacher = inputs["teacher"].facts
    licence = teacher.get("licence") or {}
    meta = {
        "name": recipe.name if role == "student" else f"{recipe.name}-teacher",
        "description": recipe.description,
        "licence": licence.get("licence"),
        "licence_override": licence.get("accepted"),
        "teacher": teacher["source"],
        "recipe": recipe.name,
        "recipe_key": inputs[source].key,
    }
    model_dir = inputs[source].path / "model"
    if scheme.format == "onnx":
        from distill2edge.export.onnx import export_onnx

        return export_onnx(model_dir, scheme, meta, work, progress)
    from distill2edge.export.gguf import export_gguf

    return export_gguf(model_dir, scheme, meta, work, progress, converter=converter)


def write_verify(recipe: Recipe, teacher: str, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `verify` stage."""
    from distill2edge.verify.run import verify

    models, encodings = measured(recipe, teacher, inputs)
    return verify(
        models,
        encodings,
        recipe.verify,
        template=recipe.data.template,
        seed=recipe.seed,
        work=work,
        progress=progress,
    )


def write_bench(recipe: Recipe, teacher: str, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `bench` stage."""
    from distill2edge.bench.run import bench
    from distill2edge.cost.places import watts_of

    models, encodings = measured(recipe, teacher, inputs)
    watts = watts_of(recipe.bench, recipe.cost)
    return bench(models, encodings, recipe.bench, seed=recipe.seed, work=work, progress=progress, watts=watts)


def write_report(recipe: Recipe, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `report` stage: JSON, page, Markdown and model card."""
    from distill2edge.rundir import write_documents

    return write_documents(recipe, inputs, work)


# --- what the steps share -----------------------------------------------------


def teacher_model(inputs: Inputs) -> Path:
    """The teacher's directory: fitted, where the recipe fits it."""
    return (inputs["fit"] if "fit" in inputs else inputs["teacher"]).path / "model"


def encode(recipe: Recipe, inputs: Inputs, model_dir: Path, split: str) -> list[Encoded]:
    """A split of the data in the tokens of a model."""
    from distill2edge.data.encode import read_rows

    return _encode(recipe, read_rows(inputs["data"].path, split), model_dir)


def _encode(recipe: Recipe, rows: Sequence[Row], model_dir: Path) -> list[Encoded]:
    from distill2edge.data.encode import encode_rows

    data = recipe.data
    return encode_rows(rows, _tokenizer(model_dir), data.template, data.system, data.max_length)


def _tokenizer(model_dir: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    return tokenizer


def measured(recipe: Recipe, teacher: str, inputs: Inputs) -> tuple[list[ModelFile], dict[str, Encodings]]:
    """Every model that verify and bench look at, and the held-out rows in its tokens."""
    teacher_parameters = int(inputs["teacher"].facts["parameters"])
    student_parameters = int(inputs["student"].facts["parameters"])
    models = [_dense("teacher", inputs[teacher].path / "model", teacher_parameters)]
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
    encodings = {role: _held_out(recipe, inputs, directory) for role, directory in tokenizers.items()}
    if encodings["student"].vocabulary == encodings["teacher"].vocabulary:
        del encodings["student"]
    else:
        encodings = _paired(encodings)
    return models, encodings


def _dense(role: str, model_dir: Path, parameters: int) -> ModelFile:
    size = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    return ModelFile(role, role, TORCH, "torch", model_dir, parameters, size)  # type: ignore[arg-type]


def _held_out(recipe: Recipe, inputs: Inputs, model_dir: Path) -> Encodings:
    from distill2edge.data.encode import encode_choices, read_rows, stop_token_ids
    from distill2edge.teacher.vocabulary import vocabulary_hash

    data, tokenizer = recipe.data, _tokenizer(model_dir)
    rows = read_rows(inputs["data"].path, "test")
    encoded = _encode(recipe, rows, model_dir)
    choices = None
    if data.choices is not None:
        by_id = {row.id: row for row in rows}
        choices = [
            encode_choices(by_id[item.row], data.choices, tokenizer, data.template, data.system) for item in encoded
        ]
    return Encodings(encoded, choices, vocabulary_hash(tokenizer), stop_token_ids(tokenizer, data.template))


def _paired(encodings: dict[str, Encodings]) -> dict[str, Encodings]:
    """Only the rows that fit the length limit in both vocabularies."""
    common = set.intersection(*({row.row for row in side.rows} for side in encodings.values()))
    paired = {}
    for role, side in encodings.items():
        kept = [index for index, row in enumerate(side.rows) if row.row in common]
        choices = None if side.choices is None else [side.choices[index] for index in kept]
        paired[role] = Encodings([side.rows[index] for index in kept], choices, side.vocabulary, side.stop)
    return paired
