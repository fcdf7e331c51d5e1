"""Verify for classifiers: every file in its own runtime and process, on the same texts; figures, gates, verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill2edge.errors import UserError
from distill2edge.models.model_file import Encodings, ModelFile, encoding_of
from distill2edge.recipe.schema import Verify
from distill2edge.util.bootstrap import mean_interval
from distill2edge.util.files import write_json
from distill2edge.util.isolate import Crash
from distill2edge.util.progress import Progress
from distill2edge.verify import fidelity, ranking, scores
from distill2edge.verify.gates import apply_gates, verdict
from distill2edge.verify.metrics import METRICS, Score
from distill2edge.verify.model_figures import INTERVAL, Outcome, entry, facts_of, kept, row_scores
from distill2edge.verify.ranking import queries_of
from distill2edge.verify.steps import steps_off, weighted_kappa
from distill2edge.verify.text_models import run_models
from distill2edge.verify.trivial_baselines import balanced_accuracy, largest_class
from distill2edge.verify.warnings import warnings_of

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded

DEFINITIONS = {
    "accuracy": "share of texts whose label has the greatest logit",
    "agreement": METRICS["agreement"].definition,
    "ece": "expected calibration error: mean over 15 bins of |accuracy - mean probability of the predicted label|, "
    "weighed by their texts (Guo et al. 2017)",
    "macro_f1": "mean over the labels of 2 TP / (2 TP + FP + FN)",
    "balanced_accuracy": "mean over the classes that occur of the share of their texts that are right",
    "baseline": "needs no model: always the class that most held-out texts have",
    "above_baseline": "the 95% interval of the paired difference to the baseline is above 0",
    "retained": "accuracy / teacher's accuracy on the same texts",
    "kept": "score / score of each of the teacher's own files on the same rows",
    "kl_teacher": "mean KL(teacher || model) of the class distributions, nats per text",
    "kl_student": "mean KL(merged student || file) of the class distributions, nats per text",
    "top1_student": "share of texts that file and merged student give the same label",
    "top1_teacher": "share of texts that model and teacher give the same label",
    "interval": INTERVAL,
    "gates": "apply to the value itself, not to an end of its interval",
}


STEPS = {
    "steps_off": "mean over texts of the steps between the label and the one with the greatest logit",
    "weighted_kappa": "quadratic weighted kappa of the two (Cohen 1968): 1 - sum of squared steps / what chance gives",
}


def verify_classifiers(
    models: Sequence[ModelFile],
    encodings: Mapping[str, Encodings],
    spec: Verify,
    labels: Sequence[str],
    *,
    seed: int,
    work: Path,
    progress: Progress,
    threads: int | None = None,
    corrected: Callable[[scores.Floats], scores.Floats] | None = None,
    taught: scores.Floats | None = None,
    ordered: bool = False,
) -> dict[str, Any]:
    """Measure the models and write `verify.json` into `work`.

    A trimmed vocabulary writes the same text in other ids; class distributions are compared text by text all the same.

    Args:
        models: with at least the dense teacher; order is kept in the document.
        encodings: `teacher`, and `student` where the student reads other ids; held-out rows in the same order.
        spec: the recipe's section.
        labels: names of the classes, in the order of the logits.
        seed: of the resampling.
        work: may hold finished models of an earlier try, which are not run again.
        threads: of each runtime; None takes what affinity and cgroup allow.
        corrected: likelihoods of answers [n, C] -> class logits, of a teacher that is a language model.
        taught: class logits [n, C] of a teacher that does not run here.
        ordered: the classes are steps of a scale.

    Returns:
        `verdict`, `metric`, `rows`, `tokens` (texts compared); as text `failed` (the gates that did) and `warnings`.

    Raises:
        UserError: models or rows that can't be compared.
        EnvironmentFault: a runtime is not installed. A file that crashes its runtime is a failed gate, no exception.
    """
    models, rows = list(models), {role: side.head(spec.rows) for role, side in encodings.items()}
    outcomes = run_models(
        "distill2edge.verify.classifier_worker", models, rows, {"labels": list(labels)}, work, progress, threads
    )
    queried = encoding_of("student", rows).rows
    document = _document(models, outcomes, rows["teacher"], queried, spec, labels, seed, corrected, taught, ordered)
    write_json(work / "verify.json", document)
    return facts_of(document)


def macro_f1(predicted: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> float:
    """Mean over the classes that occur, in truth or prediction, of F1."""
    found = []
    for label in range(classes):
        hit = int(((predicted == label) & (truth == label)).sum())
        wrong = int(((predicted == label) != (truth == label)).sum())
        if hit or wrong:
            found.append(2 * hit / (2 * hit + wrong))
    return float(np.mean(found))


def calibration_error(logprob: scores.Floats, truth: NDArray[np.int64], bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3), with bins of equal width.

    Args:
        logprob: [n, C].
        truth: [n].
    """
    confidence = np.exp(logprob.max(axis=1))
    right = (logprob.argmax(axis=1) == truth).astype(float)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(right[place == at].sum() - confidence[place == at].sum()) for at in range(bins)]
    return float(sum(gaps) / len(truth))


def _document(
    models: Sequence[ModelFile],
    outcomes: Mapping[str, Outcome],
    rows: Encodings,
    queried: Sequence[Encoded],
    spec: Verify,
    labels: Sequence[str],
    seed: int,
    corrected: Callable[[scores.Floats], scores.Floats] | None,
    taught: scores.Floats | None,
    ordered: bool,
) -> dict[str, Any]:
    logprob = _logprobs(models, outcomes, corrected)
    if taught is not None:
        logprob["teacher"] = scores.log_softmax(taught[: len(rows.rows)])
    truth, metric = _truth(rows, logprob)
    dense: dict[str, scores.Floats | None] = {
        model.role: logprob.get(model.id) for model in models if model.is_reference
    }
    figures: dict[str, Outcome] = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Crash)}
    dense.setdefault("teacher", logprob.get("teacher"))
    figures |= {name: _figures(name, own, truth, dense) for name, own in logprob.items()}
    teacher = figures.get("teacher", Crash("the teacher is not measured"))
    baseline = largest_class(truth.tolist(), labels)
    entries = []
    for model in models:
        mine = figures[model.id]
        found = entry(model, mine, teacher, metric, seed, baseline)
        if not isinstance(mine, Crash):
            found["macro_f1"], found["ece"] = mine["macro_f1"], mine["ece"]
            found["balanced_accuracy"] = balanced_accuracy(mine["score"], truth.tolist())
            found |= _ordered(logprob[model.id], truth, seed) if ordered else {}
        entries.append(found)
    ranked = None
    if metric.name == "accuracy" and (ordered or len(labels) == 2):
        ranked = queries_of(queried, truth.tolist())
    if ranked is not None:
        ranked.add(entries, {name: _grade(own) for name, own in logprob.items()}, seed)
    shares = kept(models, figures, teacher, metric, seed)
    for found in entries:
        found["kept"] = shares.get(found["id"], {})
    gates = apply_gates(entries, spec)
    return {
        "schema_version": 1,
        "metric": metric.name,
        "rows": len(truth),
        "tokens": len(truth),
        "unit": "text",
        "definitions": DEFINITIONS | (STEPS if ordered else {}) | (ranking.DEFINITIONS if ranked else {}),
        "models": entries,
        "baseline": metric.baseline_entry(baseline, [1.0] * len(truth), seed),
        "classes": dict(baseline.classes),
        "gates": [gate.as_dict() for gate in gates],
        "verdict": verdict(gates),
        "warnings": warnings_of(entries, spec, baseline, len(truth), "text"),
        "row_scores": row_scores(figures, [1.0] * len(truth)),
        "correct": {
            name: [int(value) for value in one["score"]] for name, one in figures.items() if not isinstance(one, Crash)
        },
    }


def _grade(logprob: scores.Floats) -> NDArray[np.float64]:
    """[n] mean step of each text: of two classes the probability of the second."""
    return np.exp(logprob.astype(np.float64)) @ np.arange(logprob.shape[1])


def _ordered(logprob: scores.Floats, truth: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """What respects that the classes are steps of a scale."""
    predicted = logprob.argmax(axis=1)
    off = mean_interval(steps_off(predicted, truth), seed=seed).as_dict()
    return {"steps_off": off, "weighted_kappa": weighted_kappa(predicted, truth, logprob.shape[1])}


def _logprobs(
    models: Sequence[ModelFile],
    outcomes: Mapping[str, Outcome],
    corrected: Callable[[scores.Floats], scores.Floats] | None,
) -> dict[str, scores.Floats]:
    """[n, C] of every model that ran."""
    found = {}
    for model in models:
        outcome = outcomes[model.id]
        if not isinstance(outcome, Crash):
            logits = np.asarray(outcome["logits"], dtype=np.float32)
            if corrected is not None and model.role == "teacher":
                logits = corrected(logits)
            found[model.id] = scores.log_softmax(logits)
    return found


def _truth(rows: Encodings, logprob: Mapping[str, scores.Floats]) -> tuple[NDArray[np.int64], Score]:
    """The class of each text, and what a score is: the teacher's own labels are what there is where no row has one.

    Raises:
        UserError: neither rows with a response nor a teacher that ran.
    """
    truth = np.array([row.label for row in rows.rows])
    if (truth >= 0).any():
        return truth, METRICS["accuracy"]
    if "teacher" not in logprob:
        raise UserError(
            "no row has a response, and the teacher does not run here: there is nothing to score by",
            where="data.response",
            fix="give some rows a response",
        )
    return logprob["teacher"].argmax(-1), METRICS["agreement"]


def _figures(
    name: str, logprob: scores.Floats, truth: NDArray[np.int64], dense: Mapping[str, scores.Floats | None]
) -> dict[str, Any]:
    """What `entry` reads: lists over texts, each text one position."""
    predicted = logprob.argmax(axis=1)
    teacher = None if name == "teacher" else dense.get("teacher")
    student = dense.get("student") if name.startswith("student/") else None
    return {
        "score": (predicted == truth).astype(float).tolist(),
        "tokens": [1.0] * len(truth),
        "length": None,
        "counts": [1] * len(truth),
        "nll": None,
        "kl_teacher": None if teacher is None else fidelity.kl_divergence(teacher, logprob).tolist(),
        "kl_student": None if student is None else fidelity.kl_divergence(student, logprob).tolist(),
        "top1_student": None if student is None else fidelity.agreement(student, logprob).tolist(),
        "top1_teacher": None if teacher is None else fidelity.agreement(teacher, logprob).tolist(),
        "ece": calibration_error(logprob, truth),
        "macro_f1": macro_f1(predicted, truth, logprob.shape[1]),
    }
