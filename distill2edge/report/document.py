"""report.json: everything that a reader of a run wants, joined from the documents of its stages. Reads JSON only."""

from __future__ import annotations

from typing import Any

from distill2edge.bench.main_workload import main_workload
from distill2edge.report.frontier import kl_points, latency_points, pareto, size_points
from distill2edge.report.headline import headline_of
from distill2edge.report.schema_version import SCHEMA_VERSION
from distill2edge.report.sections.judge_section import judge_summary
from distill2edge.report.verdict import verdict_of, verdict_warnings, withheld_by

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
    assistant: Document | None = None,
    rounds: Document | None = None,
    judge: Document | None = None,
    ledgers: dict[str, Document] | None = None,
    labels: Document | None = None,
) -> Document:
    """Join the documents of one run.

    Args:
        run: run.json; data, teacher, student, train, merge: the documents of those stages, None where there is none.
        exports: export.json of each file that ships; `model` names its id ("student/gguf:Q4_0"), else it is made
            from `format` and `scheme`.
        verify: verify.json; bench: bench.json; cost: cost.json.
        control, assistant: train.json of those, for their curves.
        rounds: rounds.json of a recipe with rounds of self-improvement.
        judge: judge.json of a recipe with a judge.
        ledgers: by stage, the summary of the synthetic rows that it wrote.
        labels: signal.json of a teacher that was asked for labels.

    Returns:
        report.json, schema version 1. `headline` and the cost comparison are null where the verdict failed, and where
        a warning of the verdict forbids them (a teacher no better than a rule without a model, a class never seen).
    """
    bench = bench or {}
    warnings = verdict_warnings(verify, data, bench, train, control)
    gates: list[Document] = list(verify.get("gates", []))
    shown = {
        **_provenance(run, bench),
        "metric": _metric(verify),
        "files": [_file(export) for export in exports],
        "bench": bench,
        "cost": cost,
        "training": {"student": _training(train), "control": _training(control), "assistant": _training(assistant)},
        "student": student or {},
        "rounds": _rounds(rounds),
        "merge": merge or {},
        "licence": _licence(teacher),
        "teacher": teacher or {},
        "data": data or {},
        "ledgers": ledgers or {},
        "labels": labels,
        "leakage": (data or {}).get("leakage"),
        "samples": verify.get("samples", []),
        "row_scores": verify.get("row_scores") or {"units": [], "scores": {}},
    }
    models = _models(verify, bench, _workload(bench), gates)
    shown |= _claims(shown, models, gates, warnings, passed=verify.get("verdict") == "pass")
    return {**shown, "judge": judge_summary(judge, shown["headline"])}


def over_seeds(
    report: Document, models: list[Document], gates: list[Document], warnings: list[Document], seeds: Document
) -> Document:
    """A report with the figures, gates and warnings of several seeds in place of its own; the headline is theirs.

    Args:
        report: of one seed.
        models, gates, warnings: over all seeds.
        seeds: `seeds` and `runs`.
    """
    claims = _claims(report, models, gates, warnings, passed=all(run["verdict"] == "pass" for run in seeds["runs"]))
    said = str(claims["verdict"]["summary"])
    claims["verdict"]["summary"] = f"Over {len(seeds['seeds'])} seeds: {said[0].lower()}{said[1:]}"
    return {**report, **claims, "seeds": seeds}


def _claims(
    report: Document, models: list[Document], gates: list[Document], warnings: list[Document], *, passed: bool
) -> Document:
    """What a report says of its models: verdict, frontiers, and where it may claim anything, headline and saving.

    Args:
        report: its `metric`, `files`, `bench` and `cost` are read.
        passed: whether every gate did.
    """
    metric, files, bench = report["metric"], report["files"], report["bench"]
    higher, workload = metric["higher_is_better"], _workload(bench)
    withheld = withheld_by(passed, warnings)
    cost = _cost(report["cost"], withheld)
    return {
        "models": models,
        "gates": gates,
        "verdict": {**verdict_of(passed, gates, models), "warnings": warnings},
        "headline": None if withheld else headline_of(models, gates, bench, workload, cost, metric["name"]),
        "cost": cost,
        "pareto": {
            "workload": workload,
            "latency": pareto(latency_points(models), higher),
            "size": pareto(size_points(models), higher),
            "kl": pareto(kl_points(models, files), higher_is_better=False),
        },
    }


def _metric(verify: Document) -> Document:
    """What the scores are, of what, and what needs no model to reach."""
    return {
        "name": str(verify.get("metric", "score")),
        # Every score is made so that more is better: the likelihood of text is exp(-NLL), a probability.
        "higher_is_better": bool(verify.get("higher_is_better", True)),
        "rows": verify.get("rows"),
        "tokens": verify.get("tokens"),
        "unit": verify.get("unit") or "token",
        "baseline": verify.get("baseline"),
        "classes": verify.get("classes") or {},
    }


def _provenance(run: Document, bench: Document) -> Document:
    """Which run this is, and how its figures came to be: stages, machines, command and recipe."""
    return {
        "schema_version": SCHEMA_VERSION,
        "name": run.get("name", "run"),
        **{key: run.get(key) for key in ("created", "recipe_path", "seed")},
        "stages": run.get("stages", []),
        "environment": {**run.get("environment", {}), "bench_machine": bench.get("machine")},
        "reproduce": {
            "command": run.get("command"),
            "recipe_path": run.get("recipe_path"),
            "recipe": run.get("recipe", {}),
        },
    }


def _workload(bench: Document) -> str | None:
    found = main_workload(bench)
    return None if found is None else str(found["name"])


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


def _file(export: Document) -> Document:
    name = export.get("model") or f"student/{_scheme(export)}"
    return {**export, "model": name, "scheme": _scheme(export)}


def _scheme(export: Document) -> str:
    scheme = str(export.get("scheme", ""))
    return scheme if ":" in scheme else f"{export.get('format', '')}:{scheme}"


def _cost(cost: Document | None, withheld: str) -> Document | None:
    """Where no headline may be claimed, no saving is either. What one seed withheld stays withheld."""
    if cost is None or not withheld or cost.get("withheld"):
        return cost
    return {**cost, "comparison": None, "withheld": f"{withheld}; so no saving is claimed"}


def _training(train: Document | None) -> Document | None:
    if train is None:
        return None
    keys = ("log", "eval", "supervised_tokens", "tokens_per_s", "wall_s", "peak_rss_bytes", "dtype", "eval_loss")
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
