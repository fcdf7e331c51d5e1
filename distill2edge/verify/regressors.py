"""Verify for regressors: every file in its own runtime and process, on the same texts; figures, gates, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.recipe.schema import Verify
from distill2edge.util.bootstrap import mean_interval
from distill2edge.util.files import write_json
from distill2edge.util.isolate import Crash
from distill2edge.util.progress import Progress
from distill2edge.verify import ranking
from distill2edge.verify.correlation import pearson, spearman
from distill2edge.verify.gates import apply_gates, verdict
from distill2edge.verify.metrics import METRICS
from distill2edge.verify.model_figures import INTERVAL, Outcome, entry, facts_of, kept, row_scores
from distill2edge.verify.ranking import Queries, queries_of
from distill2edge.verify.text_models import run_models
from distill2edge.verify.trivial_baselines import TrivialBaseline
from distill2edge.verify.warnings import warnings_of

Floats = NDArray[np.float64]
METRIC = METRICS["spearman"]
NEAR = 0.1
"""Standard deviations within which two numbers are called the same."""
DEFINITIONS = {
    "spearman": METRIC.definition,
    "pearson": "Pearson's correlation with the data's numbers",
    "mae": "mean absolute error against the data's numbers, in their unit",
    "baseline": "needs no model: always the mean, which orders nothing; its mae is that of the held-out rows' own mean",
    "above_baseline": "the 95% interval of the correlation is above 0",
    "retained": "score / teacher's score on the same texts",
    "kept": "score / score of each of the teacher's own files on the same rows",
    "kl_teacher": "mean KL of two normal distributions around the numbers of teacher and model, both with the standard "
    "deviation of the data's numbers: (difference / deviation)^2 / 2, nats per text",
    "kl_student": "the same of merged student and file",
    "top1_student": f"share of texts whose numbers by file and merged student are within {NEAR} standard deviations",
    "top1_teacher": "the same of model and teacher",
    "interval": INTERVAL + "; correlations: of the mean of the rows' influence on them",
    "gates": "apply to the value itself, not to an end of its interval",
}


def verify_regressors(
    models: Sequence[ModelFile],
    encodings: Mapping[str, Encodings],
    spec: Verify,
    labels: Sequence[str],
    *,
    seed: int,
    work: Path,
    progress: Progress,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure the models and write `verify.json` into `work`. Arguments, errors and result as `verify_classifiers`."""
    models, rows = list(models), {role: side.head(spec.rows) for role, side in encodings.items()}
    outcomes = run_models(
        "distill2edge.verify.classifier_worker", models, rows, {"labels": list(labels)}, work, progress, threads
    )
    gold = np.array([row.number for row in rows["teacher"].rows], dtype=np.float64)
    document = _document(models, outcomes, gold, queries_of(rows["teacher"].rows, gold.tolist()), spec, seed)
    write_json(work / "verify.json", document)
    return facts_of(document)


def _document(
    models: Sequence[ModelFile],
    outcomes: Mapping[str, Outcome],
    gold: Floats,
    ranked: Queries | None,
    spec: Verify,
    seed: int,
) -> dict[str, Any]:
    numbers = {
        name: np.asarray(outcome["logits"], dtype=np.float64)[:, 0]
        for name, outcome in outcomes.items()
        if not isinstance(outcome, Crash)
    }
    dense: dict[str, Floats] = {
        model.role: numbers[model.id] for model in models if model.is_reference and model.id in numbers
    }
    ones, figures = [1.0] * len(gold), dict[str, Outcome]()
    for model in models:
        outcome = outcomes[model.id]
        figures[model.id] = outcome if isinstance(outcome, Crash) else _figures(model, numbers[model.id], gold, dense)
    baseline = TrivialBaseline("always the mean", [0.0] * len(gold))
    entries = []
    for model in models:
        found = entry(model, figures[model.id], figures["teacher"], METRIC, seed, baseline)
        if model.id in numbers:
            own = numbers[model.id]
            found["pearson"] = mean_interval(pearson(own, gold), seed=seed).as_dict()
            found["mae"] = mean_interval(np.abs(own - gold).tolist(), seed=seed).as_dict()
        entries.append(found)
    if ranked is not None:
        ranked.add(entries, numbers, seed)
    shares = kept(models, figures, figures["teacher"], METRIC, seed)
    for found in entries:
        found["kept"] = shares.get(found["id"], {})
    gates = apply_gates(entries, spec)
    trivial = METRIC.baseline_entry(baseline, ones, seed)
    trivial["mae"] = mean_interval(np.abs(gold - gold.mean()).tolist(), seed=seed).as_dict()
    return {
        "schema_version": 1,
        "metric": METRIC.name,
        "rows": len(gold),
        "tokens": len(gold),
        "unit": "number",
        "definitions": DEFINITIONS | (ranking.DEFINITIONS if ranked else {}),
        "models": entries,
        "baseline": trivial,
        "classes": {},
        "gates": [gate.as_dict() for gate in gates],
        "verdict": verdict(gates),
        "warnings": warnings_of(entries, spec, baseline, len(gold), "text"),
        "row_scores": row_scores(figures, ones),
    }


def _figures(model: ModelFile, own: Floats, gold: Floats, dense: Mapping[str, Floats]) -> dict[str, Any]:
    """What `entry` reads: lists over texts, each text one position."""
    deviation = float(gold.std()) or 1.0
    found: dict[str, Any] = {
        "score": spearman(own, gold),
        "tokens": [1.0] * len(gold),
        "length": None,
        "counts": [1] * len(gold),
        "nll": None,
    }
    of = {"teacher": dense.get("teacher") if model.id != "teacher" else None,
          "student": dense.get("student") if model.role == "student" and not model.is_reference else None}  # fmt: skip
    for role, other in of.items():
        if other is None:
            found |= {f"kl_{role}": None, f"top1_{role}": None}
            continue
        apart = (own - other) / deviation
        found[f"kl_{role}"] = (apart**2 / 2).tolist()
        found[f"top1_{role}"] = (np.abs(apart) <= NEAR).astype(float).tolist()
    return found
