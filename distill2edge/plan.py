"""What a run will do before it does it: stages, what is cached, estimated time, memory and disk.

Estimates are arithmetic on counts (2 FLOPs per weight and token forward, 4 more backward; Kaplan 2020, section 2.1)
over the speed of a matrix product measured here, times an efficiency seen in real runs. Stages that the store has
made before, for whatever recipe, are estimated by their own time.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill2edge import progress as progress_module
from distill2edge.housekeeping import readable_bytes
from distill2edge.pipeline import Stage, keys_of
from distill2edge.preflight import checked_recipe
from distill2edge.recipe.schema import FromTeacher, Recipe
from distill2edge.recipe.scratch import ScratchTeacher
from distill2edge.store import Artifact, Store, default_root

Row = dict[str, Any]

_EFFICIENCY = 0.35  # of a large product's speed, over a whole training step of a small model
_GUESS_TOKENS = 0.5  # of data.max_length, per row, before the data is read
_GUESS_ROWS = 5000  # where neither the recipe nor the data says it


def plan_recipe(
    recipe: Path,
    overrides: Sequence[str],
    store: Path | None,
    out: Path | None,
    quiet: bool,
    converter: Path | None = None,
) -> dict[str, Any]:
    """The plan of a recipe as a document: one row per stage, and totals.

    Raises:
        UserError: as `distill2edge run`, before anything is written.
    """
    from distill2edge.stages import build_stages
    from distill2edge.teacher.endpoint.estimate import estimate

    progress = progress_module.for_stream(quiet)
    loaded = checked_recipe(recipe, overrides, progress, converter=converter is not None)
    stages = build_stages(loaded, progress, converter)
    keys = keys_of(stages, loaded.seed)
    opened = Store(store or default_root())
    found = {stage.name: opened.get(stage.kind, keys[stage.name], progress.warn) for stage in stages}
    sizes = _sizes(loaded, found)
    speed = product_speed()
    rows = [_row(stage, found[stage.name], keys[stage.name], opened, loaded, sizes, speed) for stage in stages]
    missing = [row for row in rows if not row["cached"]]
    known = [row["seconds"] for row in missing if row["seconds"] is not None]
    existing = next(path for path in (opened.root, *opened.root.parents) if path.exists())
    return {
        "schema_version": 1,
        "name": loaded.name,
        "stages": rows,
        "seconds": sum(known),
        "peak_memory_bytes": max((row["memory_bytes"] or 0 for row in missing), default=0),
        "disk_bytes": sum(row["disk_bytes"] or 0 for row in missing),
        "disk_free_bytes": shutil.disk_usage(existing).free,
        "store": str(opened.root),
        "endpoint": estimate(loaded, sizes["train_rows"], sizes["tokens_per_row"]),
        "basis": {"flops_per_second": speed, "efficiency": _EFFICIENCY, **sizes},
    }


def warn_of_room(recipe: Recipe, stages: Sequence[Stage], store: Store, progress: progress_module.Progress) -> None:
    """Say where the disk has less room than the stages that are to be made are estimated to take."""
    keys = keys_of(stages, recipe.seed)
    found = {stage.name: store.get(stage.kind, keys[stage.name], progress.warn) for stage in stages}
    if all(found.values()) or not {"teacher", "student", "data"} <= found.keys():
        return
    sizes = _sizes(recipe, found)
    rows = [_row(stage, found[stage.name], keys[stage.name], store, recipe, sizes, 1.0) for stage in stages]
    needed = sum(row["disk_bytes"] or 0 for row in rows if not row["cached"])
    place = next(path for path in (store.root.absolute(), *store.root.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        progress.warn(
            f"about {readable_bytes(needed)} of disk will be needed, and {readable_bytes(free)} are free in "
            f"{store.root}: free room (`distill2edge store gc`), or name a store on another disk"
        )


def render_plan(plan: dict[str, Any]) -> str:
    """The plan as a table with totals."""
    lines = [f"{'stage':<28} {'state':<8} {'time':>8} {'memory':>10} {'disk':>10}"]
    for row in plan["stages"]:
        state = "cached" if row["cached"] else "to do"
        took = "" if row["cached"] or row["seconds"] is None else readable_seconds(row["seconds"])
        memory = "" if row["cached"] or not row["memory_bytes"] else readable_bytes(row["memory_bytes"])
        disk = readable_bytes(row["disk_bytes"]) if row["disk_bytes"] else ""
        lines.append(f"{row['stage']:<28} {state:<8} {took:>8} {memory:>10} {disk:>10}")
    lines.append(
        f"to do: about {readable_seconds(plan['seconds'])}, at most "
        f"{readable_bytes(plan['peak_memory_bytes'])} of memory, "
        f"{readable_bytes(plan['disk_bytes'])} of disk "
        f"({readable_bytes(plan['disk_free_bytes'])} free in {plan['store']})"
    )
    if plan.get("endpoint"):
        from distill2edge.teacher.endpoint.estimate import sentence

        lines.append(sentence(plan["endpoint"]))
        return "\n".join(lines)
    if plan["basis"]["teacher_parameters"] is None:
        lines.append("the teacher is not here yet: its size, and so the times, are known after `distill2edge teacher`")
    return "\n".join(lines)


def readable_seconds(seconds: float) -> str:
    """`8 s`, `3 min`, `2.1 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def product_speed() -> float:
    """FLOPs per second of a matrix product in the type that training uses, on all threads. Takes 0.1 s."""
    import torch

    from distill2edge.precision import compute_dtype, default_device

    device = default_device()
    size = 4096 if device == "cuda" else 768
    a = torch.randn(size, size, device=device, dtype=compute_dtype("auto", device))
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        (a @ a).sum().item()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def _sizes(recipe: Recipe, found: dict[str, Artifact | None]) -> dict[str, Any]:
    """Parameters of both models and tokens of the training rows, as far as they are known."""
    teacher_artifact, student_artifact, data = found["teacher"], found["student"], found["data"]
    known = teacher_artifact is not None and recipe.teacher.url is None
    teacher = int(teacher_artifact.facts["parameters"]) if known else _parameters(recipe)  # type: ignore[union-attr]
    student = int(student_artifact.facts["parameters"]) if student_artifact else None
    layers = None
    if known:
        config = json.loads((teacher_artifact.path / "model" / "config.json").read_text(encoding="utf-8"))
        layers = config.get("num_hidden_layers")
    init = recipe.student.init
    if student is None and teacher is not None and isinstance(init, FromTeacher):
        kept = init.layers if isinstance(init.layers, int) else len(init.layers)
        # Embeddings stay whole: without the layer count take the whole teacher as the bound.
        student = round(teacher * min(1.0, 0.2 + 0.8 * kept / layers)) if layers else teacher
    splits = data.facts["splits"] if data else {}
    rows = (splits.get("train") or {}).get("rows") or recipe.data.splits.train or _GUESS_ROWS
    return {
        "teacher_parameters": teacher,
        "student_parameters": student,
        "train_rows": rows,
        "tokens_per_row": round(recipe.data.max_length * _GUESS_TOKENS),
        "rows_known": data is not None,
    }


def _parameters(recipe: Recipe) -> int | None:
    """Of a local file, by its size; of a model made from nothing, by its shape; None for what is not here."""
    if isinstance(recipe.teacher.model, ScratchTeacher):
        return scratch_parameters(recipe.teacher.model)
    if recipe.teacher.url is not None:
        return None
    return _stored_parameters(recipe.teacher.model)


def _stored_parameters(model: str) -> int | None:
    """Of a file or directory that is here, by its size."""
    path = Path(model).expanduser()
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors")) // 2 or None
    return path.stat().st_size * 8 // 5 if path.is_file() else None


def scratch_parameters(model: ScratchTeacher) -> int:
    """Weights of a model made from nothing; its vocabulary is at most what the recipe asks for."""
    attention, gated = 4 * model.hidden**2, 3 * model.hidden * model.width
    block = attention + gated
    if model.architecture == "t5":
        block = 2 * block + attention  # an encoder's and a decoder's, which also attends to the encoder
    return model.layers * block + model.vocabulary * model.hidden


def _row(
    stage: Stage, artifact: Artifact | None, key: str, store: Store, recipe: Recipe, sizes: dict[str, Any], speed: float
) -> Row:
    row: Row = {
        "stage": stage.name,
        "key": key,
        "cached": artifact is not None,
        "path": str(store.path(stage.kind, key)),
    }
    teacher, student = sizes["teacher_parameters"], sizes["student_parameters"]
    if artifact is not None:
        return row | {"seconds": 0.0, "memory_bytes": None, "disk_bytes": artifact.size}
    tokens = sizes["train_rows"] * sizes["tokens_per_row"]
    per_second = speed * _EFFICIENCY
    seconds, memory, disk = _past(stage, store), None, None
    if teacher is not None and student is not None:
        owner = (
            student
            if stage.name.startswith(
                (
                    "distill",
                    "merge",
                    "quantization-aware",
                    "sensitivity student",
                    "calibration student",
                    "export student",
                    "signal student",
                )
            )
            else teacher
        )
        disk = {
            "teacher": 4 * teacher,
            "fit": 4 * teacher,
            "student": 4 * student,
            "merge": 4 * student,
            "quantization-aware": 4 * student,
            "signal": sizes["train_rows"] * 8 * 260,
            "export": owner,
            "sensitivity": 4 * owner,  # products of inputs: about the weights' own size in decoders
            "calibration": 4 * owner if recipe.gptq else 10_000_000,
        }.get(stage.kind, 10_000_000)
        memory = {"teacher": 8 * teacher, "merge": 16 * student, "export": 12 * owner, "sensitivity": 12 * owner}.get(
            stage.kind, 4 * owner
        )
        if stage.kind == "judge" and (judge := recipe.verify.judge) is not None:
            memory = 4 * max(teacher, student, _stored_parameters(judge.model) or 0)
        if stage.kind in ("fit", "distill", "quantization-aware"):
            training = {
                "fit": recipe.teacher.fit,
                "distill": recipe.distill,
                "quantization-aware": recipe.distill.quantization_aware,
            }[stage.kind]
            assert training is not None
            seen = tokens * training.epochs
            limit = getattr(training, "max_rows", None)
            seen = min(seen, limit * sizes["tokens_per_row"] * training.epochs) if limit else seen
            seconds = 6 * owner * seen / per_second
            # In full: weights, gradients, two moments in float32, and the stored form.
            whole = stage.kind == "quantization-aware" and getattr(training, "lora", None) is None
            memory = (18 if whole else 6) * owner + training.batch_size * recipe.data.max_length * 60_000
        elif stage.kind == "signal":
            seconds = 2 * owner * tokens / per_second
        elif stage.kind == "sensitivity" and seconds is None:  # forward; forward and backward on a quarter
            seconds = (2 + 6 / 4) * owner * recipe.quantize.max_tokens / per_second
    return row | {"seconds": seconds, "memory_bytes": memory, "disk_bytes": disk}


def _past(stage: Stage, store: Store) -> float | None:
    """Median time of finished stages of this kind."""
    times = sorted(float(item.manifest["wall_s"]) for item in store.artifacts() if item.manifest["stage"] == stage.kind)
    return times[len(times) // 2] if times else None
