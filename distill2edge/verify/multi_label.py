"""Verify for multi-label classifiers: every file in its own runtime and process, on the same texts; figures, gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill2edge.data.model_inputs import parse_form
from distill2edge.errors import UserError
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.models.two_events import THRESHOLD, thresholds_in, two_events
from distill2edge.recipe.schema import Verify
from distill2edge.util.files import read_json, write_json
from distill2edge.util.isolate import Crash
from distill2edge.util.progress import Progress
from distill2edge.util.proportions import proportion_interval
from distill2edge.verify import fidelity, scores
from distill2edge.verify.gates import apply_gates, verdict
from distill2edge.verify.label_sets import (
    Sets,
    calibration_error,
    commonest_set,
    constant_set,
    exact,
    label_f1,
    macro_f1,
    micro_f1,
)
from distill2edge.verify.metrics import METRICS, Score
from distill2edge.verify.model_figures import INTERVAL, Outcome, entry, facts_of, kept, row_scores
from distill2edge.verify.text_models import run_models
from distill2edge.verify.warnings import warnings_of

DEFINITIONS = {
    "micro_f1": METRICS["micro_f1"].definition,
    "set_agreement": METRICS["set_agreement"].definition,
    "threshold": f"a text has a label whose probability, the sigmoid of its logit, is above {THRESHOLD}, or above "
    "the one that was chosen for the label on the validation rows (`thresholds` of each model)",
    "macro_f1": "mean over the labels of 2 TP / (2 TP + FP + FN)",
    "label_f1": "2 TP / (2 TP + FP + FN) of each label",
    "exact": "share of texts whose whole set of labels is right (subset accuracy)",
    "ece": "expected calibration error over all labels of all texts: mean over 15 bins of |share of labels that are "
    "there - mean probability|, weighed by their labels",
    "baseline": "needs no model: always the one set of labels with the best F1 on the held-out rows; its exact is that "
    "of always the commonest set",
    "above_baseline": "the 95% interval of the paired difference to the baseline is above 0",
    "retained": "F1 / teacher's F1 on the same texts",
    "kept": "score / score of each of the teacher's own files on the same rows",
    "kl_teacher": "mean over texts of the sum over the labels of KL(teacher || model) of having and not having it, "
    "nats",
    "kl_student": "the same of merged student and file",
    "top1_student": "share of texts that file and merged student give the same set of labels",
    "top1_teacher": "share of texts that model and teacher give the same set of labels",
    "interval": INTERVAL + "; F1: of the mean of the texts' influence on it",
    "gates": "apply to the value itself, not to an end of its interval",
}


def verify_multi_label(
    models: Sequence[ModelFile],
    encodings: Mapping[str, Encodings],
    spec: Verify,
    labels: Sequence[str],
    *,
    seed: int,
    work: Path,
    progress: Progress,
    threads: int | None = None,
    taught: scores.Floats | None = None,
) -> dict[str, Any]:
    """Measure the models and write `verify.json` into `work`. Arguments, errors and result as `verify_classifiers`.

    Args:
        taught: log-probabilities [n, C, 2] of a teacher that does not run here, of not having each label and having it.
    """
    models, rows = list(models), {role: side.head(spec.rows) for role, side in encodings.items()}
    outcomes = run_models(
        "distill2edge.verify.classifier_worker", models, rows, {"labels": list(labels)}, work, progress, threads
    )
    document = _document(models, outcomes, rows["teacher"], spec, labels, seed, taught)
    write_json(work / "verify.json", document)
    return facts_of(document)


def _document(
    models: Sequence[ModelFile],
    outcomes: Mapping[str, Outcome],
    rows: Encodings,
    spec: Verify,
    labels: Sequence[str],
    seed: int,
    taught: scores.Floats | None,
) -> dict[str, Any]:
    events: dict[str, scores.Floats] = {
        name: scores.log_softmax(two_events(outcome["logits"]))
        for name, outcome in outcomes.items()
        if not isinstance(outcome, Crash)
    }
    if taught is not None:
        events["teacher"] = taught[: len(rows.rows)]
    limits = {model.id: _limits(model, len(labels)) for model in models}
    limits.setdefault("teacher", np.full(len(labels), THRESHOLD))
    said = {name: _said(own, limits[name]) for name, own in events.items()}
    truth, metric = _truth(rows, said, len(labels))
    dense: dict[str, scores.Floats | None] = {
        model.role: events.get(model.id) for model in models if model.is_reference
    }
    dense.setdefault("teacher", events.get("teacher"))
    figures: dict[str, Outcome] = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Crash)}
    figures |= {name: _figures(name, own, truth, dense, said) for name, own in events.items()}
    teacher = figures.get("teacher", Crash("the teacher runs behind an endpoint"))
    baseline, (commonest, always) = constant_set(truth, labels), commonest_set(truth, labels)
    entries = []
    for model in models:
        found = entry(model, figures[model.id], teacher, metric, seed, baseline)
        if model.id in events:
            own = said[model.id]
            found["exact"] = proportion_interval(exact(own, truth)).as_dict()
            found["macro_f1"] = macro_f1(own, truth)
            found["label_f1"] = dict(zip(labels, label_f1(own, truth), strict=True))
            found["thresholds"] = dict(zip(labels, limits[model.id].tolist(), strict=True))
            found["ece"] = calibration_error(np.exp(events[model.id][..., 1]).astype(np.float64), truth)
        entries.append(found)
    shares = kept(models, figures, teacher, metric, seed)
    for found in entries:
        found["kept"] = shares.get(found["id"], {})
    gates, ones = apply_gates(entries, spec), [1.0] * len(truth)
    trivial = metric.baseline_entry(baseline, ones, seed)
    trivial |= {"commonest": commonest, "exact": proportion_interval(always).as_dict()}
    return {
        "schema_version": 1,
        "metric": metric.name,
        "rows": len(truth),
        "tokens": len(truth),
        "unit": "set",
        "threshold": THRESHOLD,
        "definitions": DEFINITIONS,
        "models": entries,
        "baseline": trivial,
        "classes": dict(baseline.classes),
        "gates": [gate.as_dict() for gate in gates],
        "verdict": verdict(gates),
        "warnings": warnings_of(entries, spec, baseline, len(truth), "text"),
        "row_scores": row_scores(figures, ones),
    }


def _limits(model: ModelFile, classes: int) -> NDArray[np.float64]:
    """[C] thresholds: of a file those that it ships with, of a dense model those of its config.json."""
    stated = model.path / "export.json"
    if stated.is_file():
        meta = read_json(stated).get("meta") or {}
        own = parse_form(str(meta["input"]), str(stated)).thresholds if "input" in meta else ()
    else:
        own = thresholds_in(read_json(model.path / "config.json"))
    return np.array(own or [THRESHOLD] * classes)


def _said(events: scores.Floats, limits: NDArray[np.float64]) -> Sets:
    """[n, C] the labels that a model gives each text."""
    return np.asarray(np.exp(events[..., 1].astype(np.float64)) > limits)


def _truth(rows: Encodings, said: Mapping[str, Sets], classes: int) -> tuple[Sets, Score]:
    """The labels of each text, and what a score is: the teacher's own sets are what there is where no row has one.

    Raises:
        UserError: neither rows with a response nor a teacher that ran.
    """
    held = [row.labels for row in rows.rows]
    if any(labels is not None for labels in held):
        truth: NDArray[np.bool_] = np.zeros((len(held), classes), dtype=bool)
        for at, labels in enumerate(held):
            truth[at, list(labels or ())] = True
        return truth, METRICS["micro_f1"]
    if "teacher" not in said:
        raise UserError(
            "no row has a response, and the teacher does not run here: there is nothing to score by",
            where="data.response",
            fix="give some rows a response",
        )
    return said["teacher"], METRICS["set_agreement"]


def _figures(
    name: str,
    events: scores.Floats,
    truth: Sets,
    dense: Mapping[str, scores.Floats | None],
    said: Mapping[str, Sets],
) -> dict[str, Any]:
    """What `entry` reads: lists over texts, each text one position."""
    found: dict[str, Any] = {
        "score": micro_f1(said[name], truth),
        "tokens": [1.0] * len(truth),
        "length": None,
        "counts": [1] * len(truth),
        "nll": None,
    }
    of = {
        "teacher": None if name == "teacher" else dense.get("teacher"),
        "student": dense.get("student") if name.startswith("student/") else None,
    }
    for role, other in of.items():
        if other is None:
            found |= {f"kl_{role}": None, f"top1_{role}": None}
            continue
        apart = fidelity.kl_divergence(other.reshape(-1, 2), events.reshape(-1, 2))
        found[f"kl_{role}"] = apart.reshape(len(truth), -1).sum(axis=1).tolist()
        found[f"top1_{role}"] = exact(said[name], said[role])
    return found
