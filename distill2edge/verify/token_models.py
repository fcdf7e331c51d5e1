"""Verify: every file in its own runtime and process, on the same tokens; figures with intervals, gates, verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill2edge.data.full_tokens import same_rows
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.models.model_file import Encodings, ModelFile, check_encodings, check_models, encoding_of
from distill2edge.recipe.schema import Verify
from distill2edge.util.files import write_json
from distill2edge.util.isolate import Crash, run_worker
from distill2edge.util.progress import Progress
from distill2edge.util.threads import available_threads
from distill2edge.verify import fidelity
from distill2edge.verify.gates import apply_gates, verdict
from distill2edge.verify.metrics import TOKEN_METRICS, Metric, metric_of
from distill2edge.verify.model_figures import INTERVAL, Outcome, entry, facts_of, kept, row_scores
from distill2edge.verify.references import COLUMNS, fewer_tokens, is_trimmed
from distill2edge.verify.token_worker import write_encodings
from distill2edge.verify.trivial_baselines import (
    balanced_accuracy,
)
from distill2edge.verify.warnings import warnings_of

DEFINITIONS = {
    **{metric.name: metric.definition for metric in TOKEN_METRICS.values()},
    "balanced_accuracy": "mean over the classes that occur of the share of their rows that are right",
    "baseline": "needs no model: the largest class, the most common answer, or a unigram model of the other rows",
    "above_baseline": "the 95% interval of the paired difference to the baseline is above 0",
    "retained": "score / teacher's score on the same rows",
    "output_length_ratio": "mean tokens of the greedy answers / those of the teacher",
    "kept": "score / score of each of the teacher's own files on the same rows",
    "kl_teacher": "mean KL(teacher || model), nats per token; where the model has fewer tokens, on the rows that both "
    "read in the same ones, of the teacher given that it names one of them",
    "kl_student": "mean KL(merged student || file), nats per token",
    "top1_student": "share of positions at which file and merged student put the same token first",
    "top1_teacher": "share of the same positions at which model and teacher put the same token first",
    "interval": INTERVAL,
    "gates": "apply to the value itself, not to an end of its interval",
}


@dataclass(frozen=True)
class _Plan:
    """What all workers of one call share."""

    encodings: dict[str, Encodings]
    metric: Metric
    verify: Verify
    threads: int
    directory: Path
    labels: Sequence[str]


def verify_token_models(
    models: Sequence[ModelFile],
    encodings: Mapping[str, Encodings],
    spec: Verify,
    *,
    template: str,
    seed: int,
    work: Path,
    progress: Progress,
    threads: int | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure the models and write `verify.json` into `work`.

    Args:
        models: with at least the dense teacher; order is kept in the document.
        encodings: `teacher`, and `student` where the student reads other tokens; held-out rows in the same order.
        spec: the recipe's section.
        template: the recipe's `data.template`.
        seed: of the resampling.
        work: may hold finished models of an earlier try, which are not run again.
        progress: told of every row.
        threads: of each runtime; None takes what affinity and cgroup allow.
        labels: names of the closed choices, in their order; none where responses are open.

    Returns:
        `verdict`, `metric`, `rows`, `tokens`, and as text `failed` (the gates that did) and `warnings`.

    Raises:
        UserError: models or rows that can't be compared.
        EnvironmentFault: a runtime is not installed, or the disk is full. A file that crashes its runtime is no
            exception: it is a failed gate in the document.
    """
    models = list(models)
    rows = {role: side.head(spec.rows) for role, side in encodings.items()}
    check_models(models)
    check_encodings(rows)
    metric = metric_of(rows["teacher"], template)
    plan = _Plan(rows, metric, spec, threads or available_threads(), work / "models", labels)
    plan.directory.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    with progress.task("verify", total=len(models) * len(rows["teacher"].rows)) as task:
        for model in sorted(models, key=_order):
            said = 0

            def advance(steps: int, name: str = model.id) -> None:
                nonlocal said
                said += steps
                task.advance(steps, name)

            outcomes[model.id] = _run(model, models, outcomes, plan, advance)
            task.advance(len(rows["teacher"].rows) - said, model.id)
            if isinstance(outcomes[model.id], Crash):
                progress.warn(f"{model.id}: {outcomes[model.id].words}")  # type: ignore[union-attr]
    document = _document(models, outcomes, plan, seed)
    write_json(work / "verify.json", document)
    for left in (*plan.directory.glob("reference-*.f32"), plan.directory / COLUMNS):
        left.unlink(missing_ok=True)
    return facts_of(document)


def _order(model: ModelFile) -> tuple[bool, bool, bool]:
    """The dense teacher first, then the dense student: the others are compared with them."""
    return not model.is_reference, model.role != "teacher", model.role != "student"


def _run(
    model: ModelFile, models: Sequence[ModelFile], outcomes: Mapping[str, Outcome], plan: _Plan, advance: Any
) -> Outcome:
    mine = encoding_of(model.role, plan.encodings)
    name = f"rows-{'teacher' if mine is plan.encodings['teacher'] else 'student'}.json"
    rows = plan.directory / name
    write_encodings(rows, mine)
    writes = model.is_reference and model.role != "control" and len(models) > 1
    own = f"reference-{model.role}.f32"
    if writes and not (plan.directory / own).exists():
        # Its figures may be kept from an earlier try, but others need the distributions too.
        (plan.directory / f"{model.slug}.json").unlink(missing_ok=True)
    spec = {
        **model.spec,
        "threads": plan.threads,
        "context": _context(mine, plan.metric),
        **({} if model.file is None else {"cache": model.cache}),
        "metric": plan.metric.name,
        "rows": name,
        "rows_sha256": hashlib.sha256(rows.read_bytes()).hexdigest(),
        "stop": list(mine.stop),
        "max_tokens": plan.verify.max_tokens,
        "positions": plan.verify.positions,
        "figures": 2,  # raised when the worker counts something else: what an earlier try left is counted anew
        "write_reference": own if writes else None,
        "teacher_reference": _reference("teacher", model, models, outcomes, plan),
        "student_reference": _reference("student", model, models, outcomes, plan),
        **fewer_tokens(mine, plan.encodings["teacher"], plan.verify, plan.directory),
    }
    outcome = run_worker(
        "distill2edge.verify.token_worker", spec, plan.directory, model.slug, threads=plan.threads, on_progress=advance
    )
    if isinstance(outcome, Crash) and outcome.environment:
        raise EnvironmentFault(f"{model.id} can't run here: {outcome.words}", where=str(model.path))
    return outcome


def _reference(
    role: str, model: ModelFile, models: Sequence[ModelFile], outcomes: Mapping[str, Outcome], plan: _Plan
) -> str | None:
    """The reference file a model is compared with, if there is one in its vocabulary and on its tokens."""
    dense = next((each for each in models if each.role == role and each.is_reference), None)
    if dense is None or dense.id == model.id or isinstance(outcomes.get(dense.id, Crash("")), Crash):
        return None
    if role == "student" and model.role != "student":
        return None
    ours, theirs = encoding_of(model.role, plan.encodings), encoding_of(role, plan.encodings)
    same = ours.vocabulary == theirs.vocabulary and all(same_rows(ours.rows, theirs.rows, None))
    return f"reference-{role}.f32" if same or (role == "teacher" and is_trimmed(ours, theirs)) else None


def _context(encodings: Encodings, metric: Metric) -> int:
    """Tokens of the longest sequence any row needs."""
    return max(max(len(row.ids) for row in encodings.rows), metric.context(encodings)) + 1


def _document(models: Sequence[ModelFile], outcomes: Mapping[str, Outcome], plan: _Plan, seed: int) -> dict[str, Any]:
    teacher = outcomes.get("teacher", Crash("the teacher is not measured"))
    rows, metric = plan.encodings["teacher"].rows, plan.metric
    baseline = metric.baseline(plan.encodings["teacher"], plan.labels)
    entries = [entry(model, outcomes[model.id], teacher, metric, seed, baseline) for model in models]
    for model, figures in zip(models, entries, strict=True):
        outcome = outcomes[model.id]
        if isinstance(outcome, Crash):
            continue
        if figures["score"] is None:
            raise UserError(f"{model.id} gave no score", where=str(model.path))
        if metric.has_classes:
            figures["balanced_accuracy"] = balanced_accuracy(outcome["score"], [row.label for row in rows])
    shares = kept(models, outcomes, teacher, metric, seed)
    for found in entries:
        found["kept"] = shares.get(found["id"], {})
    spans = fidelity.choose_positions(rows, plan.verify.max_tokens, plan.verify.positions)
    gates = apply_gates(entries, plan.verify)
    units = [float(sum(row.mask)) for row in rows]
    return {
        "schema_version": 1,
        "metric": metric.name,
        "rows": len(rows),
        "tokens": fidelity.count_positions(spans),
        "positions": plan.verify.positions,
        "definitions": DEFINITIONS,
        "models": entries,
        "baseline": metric.baseline_entry(baseline, units, seed),
        "classes": dict(baseline.classes),
        "gates": [gate.as_dict() for gate in gates],
        "verdict": verdict(gates),
        "warnings": warnings_of(entries, plan.verify, baseline, len(rows), "token"),
        "row_scores": row_scores(outcomes, units),
    }
