"""report.json: everything that a reader of a run wants, joined from the documents of its stages. Reads JSON only."""

from __future__ import annotations

from typing import Any

from distill2edge.report.frontier import pareto
from distill2edge.report.judge import judge_summary
from distill2edge.report.text import tick, value_of
from distill2edge.rivals import is_rival, quality_floor

SCHEMA_VERSION = 1
Document = dict[str, Any]


def build_report(
    run: Document,
    data: Document | None,
    teacher: Document | None,
    student: Document | None,
    train: Document | None,
    merge: Document | None,
    exports: list[Document],
    verify: Document,
    bench: Document | None,
    cost: Document | None,
    *,
    control: Document | None = None,
    rounds: Document | None = None,
    judge: Document | None = None,
    ledgers: dict[str, Document] | None = None,
) -> Document:
    """Join the documents of one run.

    Args:
        run: run.json; data, teacher, student, train, merge: the documents of those stages, None where there is none.
        exports: export.json of each file that ships; `model` names its id ("student/gguf:Q4_0"), else it is made
            from `format` and `scheme`.
        verify: verify.json; bench: bench.json; cost: cost.json.
        control: train.json of the control, for its curve.
        rounds: rounds.json of a recipe with rounds of self-improvement.
        judge: judge.json of a recipe with a judge.
        ledgers: by stage, the summary of the synthetic rows that it wrote.

    Returns:
        report.json, schema version 1. `headline` and the cost comparison are null where the verdict failed, and where
        a warning of the verdict forbids them (a teacher no better than a rule without a model, a class never seen).
    """
    gates: list[Document] = list(verify.get("gates", []))
    bench = bench or {}
    passed = verify.get("verdict") == "pass"
    warnings = verdict_warnings(verify, data, bench)
    withheld = _withheld(passed, warnings)
    workload = main_workload(bench)
    files = [_file(export) for export in exports]
    models = _models(verify, bench, workload, gates)
    shown_cost = _cost(cost, withheld)
    metric = str(verify.get("metric", "score"))
    # Every score is made so that more is better: the likelihood of text is exp(-NLL), a probability.
    higher = bool(verify.get("higher_is_better", True))
    headline = None if withheld else _headline(models, gates, bench, workload, shown_cost, metric)
    return {
        "schema_version": SCHEMA_VERSION,
        "name": run.get("name", "run"),
        "created": run.get("created"),
        "recipe_path": run.get("recipe_path"),
        "seed": run.get("seed"),
        "verdict": {**_verdict(verify, gates, models), "warnings": warnings},
        "headline": headline,
        "gates": gates,
        "metric": {
            "name": metric,
            "higher_is_better": higher,
            "rows": verify.get("rows"),
            "tokens": verify.get("tokens"),
            "unit": verify.get("unit") or "token",
            "baseline": verify.get("baseline"),
            "classes": verify.get("classes") or {},
        },
        "models": models,
        "files": files,
        "pareto": {
            "workload": workload,
            "latency": pareto(_latency_points(models), higher),
            "size": pareto(_size_points(models), higher),
            "kl": pareto(_kl_points(models, files), higher_is_better=False),
        },
        "bench": bench,
        "cost": shown_cost,
        "training": {"student": _training(train), "control": _training(control)},
        "student": student or {},
        "rounds": _rounds(rounds),
        "judge": judge_summary(judge, headline),
        "merge": merge or {},
        "licence": _licence(teacher),
        "teacher": teacher or {},
        "data": data or {},
        "ledgers": ledgers or {},
        "leakage": (data or {}).get("leakage"),
        "samples": verify.get("samples", []),
        "row_scores": verify.get("row_scores") or {"units": [], "scores": {}},
        "stages": run.get("stages", []),
        "environment": {**run.get("environment", {}), "bench_machine": bench.get("machine")},
        "reproduce": {
            "command": run.get("command"),
            "recipe_path": run.get("recipe_path"),
            "recipe": run.get("recipe", {}),
        },
    }


def over_seeds(
    report: Document, models: list[Document], gates: list[Document], warnings: list[Document], seeds: Document
) -> Document:
    """A report with the figures, gates and warnings of several seeds in place of its own; the headline is theirs.

    Args:
        report: of one seed; is changed.
        models, gates, warnings: over all seeds.
        seeds: `seeds` and `runs`.
    """
    passed = all(run["verdict"] == "pass" for run in seeds["runs"])
    withheld = _withheld(passed, warnings)
    metric, higher = report["metric"]["name"], report["metric"]["higher_is_better"]
    cost = report["cost"] if (report["cost"] or {}).get("withheld") else _cost(report["cost"], withheld)
    workload = report["pareto"]["workload"]
    count = len(seeds["seeds"])
    verdict = _verdict({"verdict": "pass" if passed else "fail"}, gates, models)
    said = str(verdict["summary"])
    verdict["summary"] = f"Over {count} seeds: {said[0].lower()}{said[1:]}"
    return {
        **report,
        "seeds": seeds,
        "models": models,
        "gates": gates,
        "verdict": {**verdict, "warnings": warnings},
        "cost": cost,
        "headline": None if withheld else _headline(models, gates, report["bench"], workload, cost, metric),
        "pareto": {
            "workload": workload,
            "latency": pareto(_latency_points(models), higher),
            "size": pareto(_size_points(models), higher),
            "kl": pareto(_kl_points(models, report["files"]), higher_is_better=False),
        },
    }


def main_workload(bench: Document) -> str | None:
    """The user's own task where it was measured, else the first workload."""
    names = [str(workload["name"]) for workload in bench.get("workloads", [])]
    return "task" if "task" in names else next(iter(names), None)


def _verdict(verify: Document, gates: list[Document], models: list[Document]) -> Document:
    failed = [gate for gate in gates if not gate.get("passed")]
    errors = [{"model": model["id"], "error": model["error"]} for model in models if model.get("error")]
    result = "pass" if verify.get("verdict") == "pass" else "fail"
    if not gates:
        summary = "No gate holds: everything is reported, nothing is enforced."
    elif result == "pass":
        summary = f"All {len(gates)} gates passed." if len(gates) != 1 else "The only gate passed."
    else:
        summary = f"{len(failed)} of {len(gates)} gates failed."
    defaults = sorted({float(gate["target"]) for gate in gates if gate.get("default")})
    if defaults:
        limits = " and ".join(tick(limit) for limit in defaults)
        words = ("limits", "are defaults") if len(defaults) > 1 else ("limit", "is the default")
        summary += f" The {words[0]} on KL of {limits} {words[1]}."
    if errors:
        summary += f" {len(errors)} model{'s' if len(errors) != 1 else ''} could not be run."
    return {"result": result, "summary": summary, "failed_gates": failed, "errors": errors}


def verdict_warnings(verify: Document, data: Document | None, bench: Document) -> list[Document]:
    """What stands beside the verdict: verify's own warnings, classes never trained on, cells of a busy machine.

    Returns:
        `kind`, `text`, and `headline`: whether a headline may be claimed in spite of it. Those that forbid one first.
    """
    found = list(verify.get("warnings", []))
    choices = (((data or {}).get("splits") or {}).get("train") or {}).get("choices") or {}
    absent = [repr(label.strip()) for label, count in choices.items() if not count]
    if absent:
        named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        text = f"{'class' if len(absent) == 1 else 'classes'} {named}: no training row"
        found.append({"kind": "class", "text": text, "headline": True})
    cells = [cell for cell in bench.get("cells", []) if cell.get("contended")]
    if cells:
        busy = f"{len(cells)} of {len(bench['cells'])} speeds were measured while the machine was busy with other work"
        found.append({"kind": "contention", "text": f"{busy}: they are a lower bound", "headline": True})
    return found


def _withheld(passed: bool, warnings: list[Document]) -> str:
    """Why nothing is claimed; empty where a headline may stand."""
    if not passed:
        return "the verdict is fail"
    return next((str(warning["text"]) for warning in warnings if not warning["headline"]), "")


def _models(verify: Document, bench: Document, workload: str | None, gates: list[Document]) -> list[Document]:
    """verify's entries, each with its bench cells, and whether its gates passed (None: it has none)."""
    models = []
    for entry in verify.get("models", []):
        own = [gate for gate in gates if gate.get("model") == entry["id"]]
        cells = [cell for cell in bench.get("cells", []) if cell.get("model") == entry["id"]]
        models.append(
            {
                **entry,
                "passed": all(gate.get("passed") for gate in own) if own else None,
                "cells": [_cell(cell, workload) for cell in cells],
            }
        )
    return models


def _cell(cell: Document, workload: str | None) -> Document:
    measured = (cell.get("workloads") or {}).get(workload) or {}
    end_to_end = measured.get("e2e_ms") or {}
    return {
        "id": cell["id"],
        "device": cell.get("device"),
        "error": cell.get("error"),
        "contended": bool(cell.get("contended")),
        "latency_ms": {
            "value": end_to_end.get("p50"),
            "low": end_to_end.get("low"),
            "high": end_to_end.get("high"),
            "n": end_to_end.get("n"),
        },
    }


def _latency_points(models: list[Document]) -> list[Document]:
    return [
        {**_point(model), "id": cell["id"], "x": cell["latency_ms"]}
        for model in models
        for cell in model["cells"]
        if not cell["error"] and not model.get("error") and cell["latency_ms"]["value"] and value_of(model.get("score"))
    ]


def _size_points(models: list[Document]) -> list[Document]:
    return [
        {**_point(model), "id": model["id"], "x": {"value": model["size_bytes"] / 1e6}}
        for model in models
        if not model.get("error") and model.get("size_bytes") and value_of(model.get("score")) is not None
    ]


def _kl_points(models: list[Document], files: list[Document]) -> list[Document]:
    """Size against KL to the student of its quantized files, where a mix of types is among them."""
    if not any(file.get("mix") for file in files):
        return []
    return [
        {**_point(model), "id": model["id"], "x": {"value": model["size_bytes"] / 1e6}, "y": model["kl_student"]}
        for model in models
        if model.get("role") == "student"
        and not model.get("error")
        and model.get("size_bytes")
        and (value_of(model.get("kl_student")) or 0) > 0
    ]


def _point(model: Document) -> Document:
    return {"model": model["id"], "role": model.get("role"), "y": model["score"], "passed": model["passed"]}


def _file(export: Document) -> Document:
    name = export.get("model") or f"student/{_scheme(export)}"
    return {**export, "model": name, "scheme": _scheme(export)}


def _scheme(export: Document) -> str:
    scheme = str(export.get("scheme", ""))
    return scheme if ":" in scheme else f"{export.get('format', '')}:{scheme}"


def _cost(cost: Document | None, withheld: str) -> Document | None:
    """Where no headline may be claimed, no saving is either."""
    if cost is None or not withheld:
        return cost
    return {**cost, "comparison": None, "withheld": f"{withheld}; so no saving is claimed"}


def _headline(
    models: list[Document],
    gates: list[Document],
    bench: Document,
    workload: str | None,
    cost: Document | None,
    metric: str,
) -> Document | None:
    """The one file to quote: the one that the cost comparison chose, else the fastest that passed."""
    by_id = {model["id"]: model for model in models}
    # What no gate holds (an arm made to compare) is not shipped, however fast it is.
    shipped = [
        model
        for model in models
        if model.get("role") == "student"
        and model["passed"] is True
        and not model.get("error")
        and model.get("above_baseline") is not False
    ]
    files = [model for model in shipped if not str(model.get("scheme", "")).startswith("torch")] or shipped
    comparison = (cost or {}).get("comparison") or {}
    # What is compared may be the dense student, where the teacher ran in PyTorch alone: the file to quote ships.
    cells = [str(comparison.get("student", "")), str((comparison.get("shipped") or {}).get("cell", ""))]
    by_cell = {cell: model for cell in reversed(cells) for model in files if model["id"] == cell.split("@", 1)[0]}
    wanted = next((cell for cell in cells if cell in by_cell), None)
    chosen = by_cell.get(wanted or "")
    chosen = chosen or min(files, key=lambda model: _best_latency(model) or float("inf"), default=None)
    if chosen is None:
        return None
    cell = wanted or _best_cell(chosen)
    teacher = by_id.get("teacher", {})
    rivals = _rivals(models, gates)
    rival = _rival(rivals, bench, cell, workload, comparison)
    speedup = _speedup(bench, cell, workload, {str(rival.get("id"))})
    sizes = (rival.get("size_bytes"), chosen.get("size_bytes"))
    return {
        "model": chosen["id"],
        "cell": cell,
        "metric": metric,
        "score": chosen.get("score"),
        "teacher_score": teacher.get("score"),
        "control_score": next((m.get("score") for m in models if m.get("role") == "control"), None),
        # Quality, size and speed are against one and the same model of the teacher.
        "rival": rival.get("id"),
        "rival_score": rival.get("score"),
        "kept": _kept(chosen, rival),
        "retained": chosen.get("retained"),
        "kl_student": chosen.get("kl_student"),
        "size_bytes": sizes[1],
        "teacher_size_bytes": sizes[0],
        "teacher_size_of": rival.get("id"),
        "size_ratio": sizes[0] / sizes[1] if sizes[0] and sizes[1] else None,
        "latency_ms": next((c["latency_ms"] for c in chosen["cells"] if c["id"] == cell), None),
        "contended": _contended(bench, cell, speedup),
        "speedup": speedup,
        "saving": comparison.get("saving"),
        "saving_of": comparison.get("student"),
        "saving_against": comparison.get("teacher"),
        "saving_same_box": comparison.get("saving_same_box"),
        "cost_per_1000": comparison.get("student_per_1000"),
        "teacher_cost_per_1000": comparison.get("teacher_per_1000"),
        "break_even_requests": comparison.get("break_even_requests"),
        "student_place": comparison.get("student_place"),
        "teacher_place": comparison.get("teacher_place"),
        "same_place": comparison.get("student_place") == comparison.get("teacher_place"),
    }


def _rival(
    rivals: list[Document], bench: Document, cell: str | None, workload: str | None, comparison: Document
) -> Document:
    """The one model of the teacher that the student is quoted against: that of the cost comparison where it is of the
    same cell, else the fastest, else the smallest."""
    by_id = {str(model["id"]): model for model in rivals}
    priced = str(comparison.get("teacher", "")).split("@", 1)[0]
    if comparison.get("student") == cell and priced in by_id:
        return by_id[priced]
    fastest = _speedup(bench, cell, workload, set(by_id))
    if fastest is not None:
        return by_id[str(fastest["against"]).split("@", 1)[0]]
    return min(rivals, key=lambda model: float(model["size_bytes"]), default={})


def _kept(chosen: Document, rival: Document) -> Document | None:
    """The student's score over the rival's, with its paired interval."""
    paired: Document | None = (chosen.get("kept") or {}).get(rival.get("id"))
    if paired is None and rival.get("id") == "teacher":
        paired = chosen.get("retained")
    if paired is not None:
        return paired
    mine, theirs = value_of(chosen.get("score")), value_of(rival.get("score"))
    return {"value": mine / theirs} if mine is not None and theirs else None


def _contended(bench: Document, cell: str | None, speedup: Document | None) -> bool:
    """Whether one of the two speeds was measured on a busy machine."""
    names = {cell, (speedup or {}).get("against")}
    return any(one.get("contended") for one in bench.get("cells", []) if one["id"] in names)


def _rivals(models: list[Document], gates: list[Document]) -> list[Document]:
    """The teacher and those of its own quantized files that meet the student's gate on quality.

    The student is quoted against one of them: the teacher's file is quantized for free.
    """
    floor = quality_floor(gates)
    return [model for model in models if is_rival(model, floor) and model.get("size_bytes")]


def _best_cell(model: Document) -> str | None:
    timed = [cell for cell in model["cells"] if not cell["error"] and cell["latency_ms"]["value"]]
    best = min(timed, key=lambda cell: float(cell["latency_ms"]["value"]), default=None)
    return None if best is None else str(best["id"])


def _best_latency(model: Document) -> float | None:
    best = _best_cell(model)
    return next((cell["latency_ms"]["value"] for cell in model["cells"] if cell["id"] == best), None)


def _speedup(bench: Document, cell: str | None, workload: str | None, rivals: set[str]) -> Document | None:
    """Against the fastest of these rivals: the smallest speed-up, so that no slow one flatters the student."""
    rows = [
        row
        for row in bench.get("speedups", [])
        if row.get("cell") == cell
        and row.get("workload") == workload
        and str(row.get("against", "")).split("@", 1)[0] in rivals
        and value_of(row.get("ratio")) is not None
    ]
    return min(rows, key=lambda row: value_of(row["ratio"]) or 0.0, default=None)


def _training(train: Document | None) -> Document | None:
    if train is None:
        return None
    keys = ("log", "eval", "supervised_tokens", "tokens_per_s", "wall_s", "peak_rss_bytes", "dtype")
    return {key: train.get(key) for key in keys}


def _rounds(rounds: Document | None) -> Document | None:
    """Without the rows' own results."""
    if rounds is None:
        return None
    arms = {
        arm: [{key: value for key, value in item.items() if key != "right"} for item in items]
        for arm, items in rounds["arms"].items()
    }
    return {**rounds, "arms": arms}


def _licence(teacher: Document | None) -> Document:
    """The gate's record without its empty fields; `accepted` is the reason to go on against the verdict."""
    record = (teacher or {}).get("licence") or {}
    if not isinstance(record, dict):
        record = {"licence": record}
    return {key: value for key, value in record.items() if value not in (None, [], "", False)}
