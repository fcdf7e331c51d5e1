"""Bench: every cell in fresh processes, interleaved, on the same token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill2edge.bench import cells as summary
from distill2edge.bench.cells import Cell
from distill2edge.bench.workloads import Workload, build_workloads
from distill2edge.errors import UserError
from distill2edge.models.model_file import Encodings, ModelFile, check_encodings
from distill2edge.recipe.schema import Bench
from distill2edge.util.files import write_json, write_text
from distill2edge.util.isolate import Crash, run_worker
from distill2edge.util.machine import machine
from distill2edge.util.progress import Progress
from distill2edge.util.terminal import in_short
from distill2edge.util.threads import available_threads

_DEVICES = {"cpu": "cpu", "gpu": "cuda"}


@dataclass(frozen=True)
class _Plan:
    """What every process of one bench shares."""

    cells: Sequence[Cell]
    workloads: Sequence[Workload]
    spec: Bench
    threads: int
    directory: Path


def bench_models(
    models: Sequence[ModelFile],
    encodings: Mapping[str, Encodings],
    spec: Bench,
    *,
    seed: int,
    work: Path,
    progress: Progress,
    watts: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Measure the models and write `bench.json` into `work`.

    Args:
        models: teacher and student files; a control is left out, since it is the student's twin in size.
        encodings: as for verify; prompts are cut from these rows.
        spec: the recipe's section; `spec.rounds` is the number of passes over all cells.
        seed: resamples.
        work: may hold finished passes of an earlier try, which are not run again; raw times stay in `rounds/`.
        progress: told of every process.
        watts: device (`cpu`, `gpu`) -> power under load, where the price catalogue names this machine.

    Returns:
        `cells`, `errors` (cell -> last words) and `contended` (cell ids).

    Raises:
        UserError: nothing to measure, or an unknown workload.
    """
    check_encodings(dict(encodings))
    cells = [
        Cell(model, device)
        for device in spec.devices
        for model in models
        if model.role != "control" and (spec.torch or model.runtime != "torch")
    ]
    if not cells:
        raise UserError("there is nothing to measure", where="bench.torch", fix="export a format, or set bench.torch")
    workloads = build_workloads(spec.workloads, encodings, spec.requests)
    plan = _Plan(cells, workloads, spec, spec.threads or available_threads(), work / "rounds")
    plan.directory.mkdir(parents=True, exist_ok=True)
    passes, errors = _measure(plan, progress)
    document = _document(plan, passes, errors, watts or {}, seed)
    write_json(work / "bench.json", document)
    contended = [entry for entry in document["cells"] if entry["contended"]]
    if contended:
        why = in_short(reason for entry in contended for reason in entry["contention"]["reasons"])
        progress.warn(f"{len(contended)} of {len(cells)} cells were measured on a busy machine: {why}")
    return {"cells": len(cells), "errors": errors, "contended": [entry["id"] for entry in contended]}


def _measure(plan: _Plan, progress: Progress) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """By cell, what each pass measured, and the last words of the cells that failed."""
    passes: dict[str, list[dict[str, Any]]] = {cell.id: [] for cell in plan.cells}
    errors: dict[str, str] = {}
    with progress.task("bench", total=len(plan.cells) * plan.spec.rounds) as task:
        for number in range(plan.spec.rounds):
            # Every second pass runs backwards: a machine that warms up favours nobody.
            for cell in plan.cells if number % 2 == 0 else reversed(plan.cells):
                if cell.id not in errors:
                    outcome = _run(cell, number, plan)
                    if isinstance(outcome, Crash):
                        errors[cell.id] = f"not available: {outcome.words}" if outcome.environment else outcome.words
                        progress.warn(f"{cell.id}: {errors[cell.id]}")
                    else:
                        passes[cell.id].append(outcome)
                task.advance(1, cell.id)
    return passes, errors


def _document(
    plan: _Plan,
    passes: Mapping[str, Sequence[dict[str, Any]]],
    errors: Mapping[str, str],
    watts: Mapping[str, float],
    seed: int,
) -> dict[str, Any]:
    alive = {name: done for name, done in passes.items() if name not in errors}
    entries = [
        summary.summarise(
            cell,
            passes[cell.id],
            errors.get(cell.id),
            threads=plan.threads,
            watts=watts.get(cell.device),
            seed=seed,
        )
        for cell in plan.cells
    ]
    return {
        "schema_version": 1,
        "machine": machine(),
        "threads": plan.threads,
        "rounds": plan.spec.rounds,
        "workloads": [workload.as_dict() for workload in plan.workloads],
        "cells": entries,
        "speedups": summary.speedups(plan.cells, alive, seed=seed),
        "formulas": summary.FORMULAS,
    }


def _run(cell: Cell, number: int, plan: _Plan) -> dict[str, Any] | Crash:
    """One cell in one pass, in a process of its own."""
    requests: list[dict[str, Any]] = [
        {
            "name": workload.name,
            "requests": [{"ids": r.ids, "output": r.output} for r in workload.of(cell.model.role)],
        }
        for workload in plan.workloads
    ]
    text = json.dumps(requests)
    name = f"workloads-{'teacher' if cell.model.role == 'teacher' else 'student'}.json"
    write_text(plan.directory / name, text)
    longest = max(len(r["ids"]) + r["output"] for workload in requests for r in workload["requests"])
    job = {
        **cell.model.spec,
        "device": _DEVICES[cell.device],
        "threads": plan.threads,
        "context": longest,
        "warmup": plan.spec.warmup,
        "workloads": name,
        "workloads_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "round": number,
        **({} if cell.model.file is None else {"cache": cell.model.cache}),
    }
    slug = f"{cell.model.slug}-{cell.device}-{number}"
    return run_worker("distill2edge.bench.bench_worker", job, plan.directory, slug, threads=plan.threads)
