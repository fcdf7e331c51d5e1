"""What the stages from the merged model to the files that ship do: calibration, sensitivity, grids, exports."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.files import read_json, without_folders, write_json
from distill2edge.pipeline import Inputs
from distill2edge.progress import Progress
from distill2edge.recipe.schema import Recipe
from distill2edge.schemes import UNTRAINED_SUFFIX, Scheme
from distill2edge.steps import complete_model, rows_dir, synthetic
from distill2edge.tasks.base import Facts

if TYPE_CHECKING:
    from distill2edge.export.mix import MixExport
    from distill2edge.quantize.divergence import Row
    from distill2edge.quantize.weigh import Weighed


def write_calibration(recipe: Recipe, source: str, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `calibration` stage: the importance matrix of a model on the calibration split."""
    from distill2edge.data.encode import read_rows
    from distill2edge.quantize.calibrate import write_importance
    from distill2edge.tasks.causal_lm import encode_rows

    model_dir, rows = inputs[source].path / "model", rows_dir(inputs)
    chosen = read_rows(rows, "calibration")
    held_out = {row.id for row in read_rows(rows, "test")}
    encoded = encode_rows(recipe, chosen, model_dir)
    return write_importance(
        model_dir,
        {item.row: item.ids for item in encoded},
        held_out,
        work,
        progress,
        max_tokens=recipe.quantize.max_tokens,
        dataset=recipe.data.source,
        grams=recipe.gptq,
    )


def write_sensitivity(
    recipe: Recipe, source: str, formats: tuple[str, ...], work: Path, inputs: Inputs, progress: Progress
) -> Facts:
    """The `sensitivity` stage: what a mix of types is chosen and rounded by, on the calibration split."""
    from distill2edge.data.encode import read_rows
    from distill2edge.quantize.weigh import write_sensitivity as weigh
    from distill2edge.tasks.causal_lm import encode_rows

    model_dir, rows = inputs[source].path / "model", rows_dir(inputs)
    encoded = encode_rows(recipe, read_rows(rows, "calibration"), model_dir)
    return weigh(
        model_dir,
        {item.row: item.ids for item in encoded},
        {row.id for row in read_rows(rows, "test")},
        work,
        progress,
        max_tokens=recipe.quantize.max_tokens,
        dataset=recipe.data.source,
        formats=formats,
    )


def write_student_signal(recipe: Recipe, source: str, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    """The `signal student` stage: the merged student's distributions, which its files are trained to keep."""
    from distill2edge.tasks.causal_lm import student_signal

    taught = inputs["signal"].path if "signal" in inputs else None
    return student_signal(recipe, inputs[source].path / "model", taught, rows_dir(inputs), work, progress)


def write_quantization_aware(
    recipe: Recipe,
    scheme: Scheme,
    source: str,
    untrained: str,
    rounded_by: tuple[str, ...],
    work: Path,
    inputs: Inputs,
    progress: Progress,
) -> Facts:
    """The `quantization-aware` stage of one scheme: the merged student trained on the grid of its untrained file.

    Where that file's errors were compensated, `rounded_by` names the stage of what it was rounded by, and the training
    starts from the weights that the file stores.
    """
    from distill2edge.export.grid import of_export
    from distill2edge.export.start import start_of
    from distill2edge.quantize.calibrate import read_calibration
    from distill2edge.quantize.held import save_grids
    from distill2edge.quantize.weigh import read_sensitivity
    from distill2edge.tasks.causal_lm import train_on_grid

    student, exported = inputs[source].path / "model", inputs[untrained].path
    if rounded_by:
        start, directory = work / "start", inputs[rounded_by[0]].path
        known = read_sensitivity(directory) if scheme.mix else read_calibration(directory)
        grids = start_of(scheme, known, student, start, progress, exported)
        student = start
    else:
        grids = of_export(exported, student, scheme)
    signal, own = (inputs[name].path if name in inputs else None for name in ("signal", "signal student"))
    facts = train_on_grid(recipe, grids, student, signal, own, rows_dir(inputs), work, progress)
    complete_model(recipe, work / "model", inputs[source].path / "model")
    save_grids(grids, str(scheme), work)
    shutil.rmtree(work / "start", ignore_errors=True)
    return facts


def write_export(
    recipe: Recipe,
    scheme: Scheme,
    source: str,
    role: str,
    converter: Path | None,
    calibration: tuple[str, ...],
    work: Path,
    inputs: Inputs,
    progress: Progress,
) -> Facts:
    """The `export` stage of one scheme.

    `calibration` names the stage whose statistics it uses, if any; of a mix that was trained, its untrained file.
    """
    from distill2edge.data.inputs import form_of
    from distill2edge.quantize.calibrate import read_calibration
    from distill2edge.quantize.weigh import read_sensitivity

    teacher = inputs["teacher"].facts
    licence = teacher.get("licence") or {}
    meta = {
        "name": recipe.name if role == "student" else f"{recipe.name}-teacher",
        "description": recipe.description,
        "licence": licence.get("licence"),
        "licence_override": licence.get("accepted"),
        "teacher": without_folders(str(teacher["source"])),
        "recipe": recipe.name,
        "recipe_key": inputs[source].key,
        **synthetic(inputs),
    }
    model_dir = inputs[source].path / "model"
    meta["input"] = form_of(recipe, model_dir).dumps()
    grid = inputs[source].path if source.startswith("quantization-aware ") else None
    if scheme.mix and scheme.format == "gguf":
        meta["scheme"] = str(scheme)
    mix = imatrix = gptq = None
    if grid is None and scheme.mix:
        mix = _mix(recipe, scheme, model_dir, read_sensitivity(inputs[calibration[0]].path), rows_dir(inputs))
    elif grid is None and calibration:
        imatrix = inputs[calibration[0]].path / "imatrix.gguf"
        gptq = read_calibration(inputs[calibration[0]].path) if recipe.gptq else None
    if scheme.format == "onnx":
        from distill2edge.export.gptq import export_onnx_gptq
        from distill2edge.export.onnx import export_onnx
        from distill2edge.export.onnx_mix import export_onnx_mix

        if mix is not None:
            return export_onnx_mix(model_dir, scheme, meta, work, progress, mix)
        if gptq is not None:
            return export_onnx_gptq(model_dir, scheme, meta, work, progress, gptq)
        facts = export_onnx(model_dir, scheme, meta, work, progress, grid=grid)
    else:
        from distill2edge.export.gguf import export_gguf

        more = {"converter": converter, "imatrix": imatrix, "gptq": gptq, "grid": grid, "mix": mix}
        facts = export_gguf(model_dir, scheme, meta, work, progress, **more)  # type: ignore[arg-type]
    if scheme.mix and grid is not None:
        before = read_json(inputs[calibration[0]].path / "export.json")
        facts |= {key: before[key] for key in ("mix", "calibration", "fallbacks")}
        write_json(work / "export.json", facts)
        if scheme.mix.budget is not None and (over := facts["size_bytes"] - scheme.mix.budget) > 0:
            progress.warn(f"{scheme}: trained, the file is {over:,} bytes over its budget: norms are no longer alike")
    return facts


def _mix(recipe: Recipe, scheme: Scheme, model_dir: Path, weighed: Weighed, rows: Path) -> MixExport:
    """A mix and the rows that its KL is measured on: those that choose the checkpoint, where there are any."""
    from distill2edge.data.encode import read_rows
    from distill2edge.export.mix import MixExport
    from distill2edge.tasks.causal_lm import encode_rows
    from distill2edge.verify.fidelity import choose_positions

    assert scheme.mix is not None
    name = "validation" if read_rows(rows, "validation") else "calibration"
    which = recipe.verify.positions

    def measured_rows() -> list[Row]:
        encoded = encode_rows(recipe, read_rows(rows, name), model_dir)
        spans = choose_positions(encoded, recipe.verify.max_tokens, which)
        return [(encoded[span.row].ids, span.positions) for span in spans]

    return MixExport(scheme.mix, weighed, measured_rows, name, which, scheme.name.endswith(UNTRAINED_SUFFIX))
