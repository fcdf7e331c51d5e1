"""Verify for embedders: every file in its own runtime and process, on the same texts; figures, gates, verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.models.loading import read_config
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.models.pooling import pooling_of
from distill2edge.recipe.schema import Verify
from distill2edge.util.bootstrap import mean_interval
from distill2edge.util.files import write_json
from distill2edge.util.isolate import Crash
from distill2edge.util.progress import Progress
from distill2edge.verify import fidelity, gold_pairs, neighbours
from distill2edge.verify.gates import apply_gates, verdict
from distill2edge.verify.metrics import METRICS
from distill2edge.verify.model_figures import INTERVAL, Outcome, entry, facts_of, kept, row_scores
from distill2edge.verify.scores import Floats
from distill2edge.verify.text_models import run_models
from distill2edge.verify.trivial_baselines import TrivialBaseline
from distill2edge.verify.warnings import warnings_of

METRIC = METRICS["recall_at_10"]
DEFINITIONS = {
    "recall_at_10": METRIC.definition,
    "baseline": "needs no model: neighbours by shared tokens, weighed by how rare they are (TF-IDF)",
    "above_baseline": "the 95% interval of the paired difference to the baseline is above 0",
    "retained": "score / teacher's score; the teacher finds all of its own neighbours, so it is the score",
    "kept": "score / score of each of the teacher's own files on the same rows",
    "kl_teacher": "mean KL(teacher || model) of the softmax of 20 cosines over the other texts, nats per text",
    "kl_student": "mean KL(merged student || file) of the softmax of 20 cosines over the other texts, nats per text",
    "top1_student": "share of texts whose nearest neighbour is the same by file and merged student",
    "top1_teacher": "share of texts whose nearest neighbour is the same by model and teacher",
    "cosine_teacher": "mean cosine of model's and teacher's vector of a text, where they have as many dimensions",
    "dimensions": "recall_at_10 by the first so many numbers of the vector, at unit length",
    "gold_pairs": gold_pairs.DEFINITION,
    "interval": INTERVAL,
    "gates": "apply to the value itself, not to an end of its interval",
}


def verify_embedders(
    models: Sequence[ModelFile],
    encodings: Mapping[str, Encodings],
    spec: Verify,
    *,
    seed: int,
    work: Path,
    progress: Progress,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure the models and write `verify.json` into `work`. Arguments, errors and result as `verify_classifiers`."""
    models, rows = list(models), {role: side.head(spec.rows) for role, side in encodings.items()}
    texts = {role: replace(side, rows=[*side.rows, *side.pairs]) for role, side in rows.items()}
    outcomes = run_models("distill2edge.verify.embedder_worker", models, texts, {}, work, progress, threads)
    document = _document(models, outcomes, rows, spec, seed)
    write_json(work / "verify.json", document)
    return facts_of(document)


def _document(
    models: Sequence[ModelFile],
    outcomes: Mapping[str, Outcome],
    rows: dict[str, Encodings],
    spec: Verify,
    seed: int,
) -> dict[str, Any]:
    vectors = {
        name: np.asarray(outcome["vectors"], dtype=np.float32)
        for name, outcome in outcomes.items()
        if not isinstance(outcome, Crash)
    }
    count = len(rows["teacher"].rows)
    paired = {name: found[count:] for name, found in vectors.items()}
    vectors = {name: found[:count] for name, found in vectors.items()}
    dense: dict[str, Floats] = {
        model.role: vectors[model.id] for model in models if model.is_reference and model.id in vectors
    }
    wanted = neighbours.nearest(neighbours.similarities(dense["teacher"])) if "teacher" in dense else None
    ones = [1.0] * count
    figures: dict[str, Outcome] = {}
    for model in models:
        outcome = outcomes[model.id]
        figures[model.id] = outcome if isinstance(outcome, Crash) else _figures(model, vectors[model.id], wanted, dense)
    baseline = _shared_words(rows["teacher"], wanted)
    entries = []
    for model in models:
        mine = figures[model.id]
        found = entry(model, mine, figures["teacher"], METRIC, seed, baseline)
        if not isinstance(mine, Crash):
            cosines = mine["cosine_teacher"]
            found["cosine_teacher"] = None if cosines is None else mean_interval(cosines, ones, seed=seed).as_dict()
            sizes = _recall_by_size(vectors[model.id], wanted, _sizes(model, models))
            found["dimensions"] = {
                str(size): METRIC.figure(score, ones, seed).as_dict() for size, score in sizes.items()
            }
        entries.append(found)
    shares = kept(models, figures, figures["teacher"], METRIC, seed)
    for found in entries:
        found["kept"] = shares.get(found["id"], {})
    if pairs := rows["teacher"].pairs:
        gold_pairs.add_to(entries, paired, [float(row.number or 0) for row in pairs[::2]], seed)
    gates = apply_gates(entries, spec)
    return {
        "schema_version": 1,
        "metric": METRIC.name,
        "rows": count,
        "tokens": count,
        "unit": "embedding",
        "pairs": len(pairs) // 2,
        "definitions": DEFINITIONS,
        "models": entries,
        "baseline": METRIC.baseline_entry(baseline, ones, seed),
        "classes": {},
        "gates": [gate.as_dict() for gate in gates],
        "verdict": verdict(gates),
        "warnings": warnings_of(entries, spec, baseline, count, "text"),
        "row_scores": row_scores(figures, ones),
    }


def _figures(model: ModelFile, vectors: Floats, wanted: Any, dense: Mapping[str, Floats]) -> dict[str, Any]:
    """What `entry` reads: lists over texts, each text one position."""
    similar = neighbours.similarities(vectors)
    near, spread = neighbours.nearest(similar), neighbours.distribution(similar)
    found: dict[str, Any] = {
        "score": [0.0] * len(vectors) if wanted is None else neighbours.recall(near, wanted),
        "tokens": [1.0] * len(vectors),
        "length": None,
        "counts": [1] * len(vectors),
        "nll": None,
        "cosine_teacher": None,
    }
    of = {"teacher": dense.get("teacher") if model.id != "teacher" else None,
          "student": dense.get("student") if model.role == "student" and not model.is_reference else None}  # fmt: skip
    for role, other in of.items():
        if other is None:
            found |= {f"kl_{role}": None, f"top1_{role}": None}
            continue
        theirs = neighbours.similarities(other)
        found[f"kl_{role}"] = fidelity.kl_divergence(neighbours.distribution(theirs), spread).tolist()
        found[f"top1_{role}"] = (neighbours.nearest(theirs, 1)[:, 0] == near[:, 0]).astype(float).tolist()
        if role == "teacher" and other.shape == vectors.shape:
            norms = np.linalg.norm(other, axis=1) * np.linalg.norm(vectors, axis=1)
            found["cosine_teacher"] = ((other * vectors).sum(1) / np.maximum(norms, 1e-12)).tolist()
    return found


def _sizes(model: ModelFile, models: Sequence[ModelFile]) -> Sequence[int]:
    """Lengths of the vector that a model was trained to serve by; the dense model of its role says so."""
    for other in models:
        if other.role == model.role and other.is_reference:
            pooling = pooling_of(read_config(other.path))
            return () if pooling is None else pooling.dimensions
    return ()


def _recall_by_size(vectors: Floats, wanted: Any, sizes: Sequence[int]) -> dict[int, list[float]]:
    if wanted is None:
        return {}
    return {
        size: neighbours.recall(neighbours.nearest(neighbours.similarities(vectors, size)), wanted) for size in sizes
    }


def _shared_words(rows: Encodings, wanted: Any) -> TrivialBaseline:
    name = "neighbours by shared words (TF-IDF)"
    if wanted is None:
        return TrivialBaseline(name, [0.0] * len(rows.rows))
    near = neighbours.nearest(neighbours.shared_words([row.ids for row in rows.rows]))
    return TrivialBaseline(name, neighbours.recall(near, wanted), len(wanted[0]) / max(len(rows.rows) - 1, 1))
