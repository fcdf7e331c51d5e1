"""What a worker counted -> the figures of one model in `verify.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from distill2edge.gguf.kv_cache import token_bytes
from distill2edge.gguf.reader import read_gguf
from distill2edge.models.kv_cache import PLAIN
from distill2edge.models.model_file import ModelFile
from distill2edge.util.bootstrap import Figure, mean_interval, percentile, ratio_interval
from distill2edge.util.isolate import Crash
from distill2edge.util.proportions import proportion_interval
from distill2edge.verify.metrics import Score, exp
from distill2edge.verify.trivial_baselines import TrivialBaseline

Outcome: TypeAlias = Mapping[str, Any] | Crash

INTERVAL = (
    "95%, over rows, paired where two models are compared; shares: Wilson, and Bonett and Price for their ratio; "
    "other means: percentile bootstrap"
)
_TAIL_NEEDS = 100  # positions from which on a 99th percentile is more than the maximum


def entry(
    model: ModelFile, outcome: Outcome, teacher: Outcome, metric: Score, seed: int, baseline: TrivialBaseline
) -> dict[str, Any]:
    """One model's figures, with intervals.

    Args:
        model: whose.
        outcome: its worker's result, or crash.
        teacher: that of the dense teacher, which `retained` is held against.
        metric: of the task.
        seed: of the resampling, the same for all models, so that they are resampled alike.
        baseline: what a score must beat by more than noise to mean anything.
    """
    head = {
        "id": model.id,
        "role": model.role,
        "scheme": model.scheme,
        "runtime": model.runtime,
        "size_bytes": model.size_bytes,
        "parameters": model.parameters,
        **({} if model.file is None else {"kv_cache": cache_of(model)}),
    }
    figures: dict[str, Any] = dict.fromkeys(
        (
            "score", "retained", "output_length_ratio", "kl_teacher", "kl_student", "kl_student_p99", "top1_student",
            "top1_teacher", "perplexity", "above_baseline",
        )
    )  # fmt: skip
    if isinstance(outcome, Crash):
        return {**head, **figures, "error": outcome.words}
    against = None if isinstance(teacher, Crash) else teacher
    units = (against or outcome)["tokens"]
    figures["score"] = metric.figure(outcome["score"], units, seed)
    if against is not None and outcome is not against:
        figures["retained"] = metric.ratio(outcome["score"], against["score"], units, seed)
        if outcome["length"] is not None:
            figures["output_length_ratio"] = ratio_interval(outcome["length"], against["length"], seed=seed)
    for role in ("teacher", "student"):
        counts = outcome.get(f"counts_{role}") or outcome["counts"]
        figures[f"kl_{role}"] = _over_rows(outcome[f"kl_{role}"], counts, partial(mean_interval, seed=seed))
        figures[f"top1_{role}"] = _over_rows(outcome[f"top1_{role}"], counts, proportion_interval)
    tail = outcome["kl_student"]
    if tail is not None and len(tail) >= _TAIL_NEEDS:
        figures["kl_student_p99"] = percentile(tail, 99)
    nll = _over_rows(outcome["nll"], outcome["counts"], partial(mean_interval, seed=seed))
    figures["perplexity"] = nll and nll.map(exp)
    figures["above_baseline"] = metric.is_above(outcome["score"], baseline.score, units, seed)
    plain = {key: value.as_dict() if isinstance(value, Figure) else value for key, value in figures.items()}
    return {**head, **plain, "error": None}


def cache_of(model: ModelFile) -> dict[str, Any]:
    """Of a file with keys and values in another type: which file and type, and the bytes of a token's, also in
    llama.cpp's own."""
    file = read_gguf(model.path / "model.gguf" if model.path.is_dir() else model.path)
    sizes = {"token_bytes": token_bytes(file, model.cache), "plain_token_bytes": token_bytes(file, PLAIN)}
    return {"file": model.file, "type": model.cache, **sizes}


def kept(
    models: Sequence[ModelFile], outcomes: Mapping[str, Outcome], teacher: Outcome, metric: Score, seed: int
) -> dict[str, dict[str, Any]]:
    """What each model of the student keeps of each of the teacher's own: its score over theirs, paired.

    Returns:
        by id of the student's model and of the teacher's, a figure; pairs without a ratio are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    if isinstance(teacher, Crash):
        return found
    for model in (model for model in models if model.role == "student"):
        mine = outcomes[model.id]
        for other in (each for each in models if each.role == "teacher"):
            theirs = outcomes[other.id]
            if isinstance(mine, Crash) or isinstance(theirs, Crash):
                continue
            figure = metric.ratio(mine["score"], theirs["score"], theirs["tokens"], seed)
            if figure is not None:
                found.setdefault(model.id, {})[other.id] = figure.as_dict()
    return found


def row_scores(outcomes: Mapping[str, Outcome], units: Sequence[float]) -> dict[str, Any]:
    """For verify.json: `units` (tokens of each row) and `scores` of each row, by model; crashed ones are left out."""
    scores = {
        name: [round(float(value), 6) for value in outcome["score"]]
        for name, outcome in outcomes.items()
        if not isinstance(outcome, Crash)
    }
    return {"units": list(units), "scores": scores}


def _over_rows(
    values: Sequence[float] | None, counts: Sequence[int], interval: Callable[[list[float], list[float]], Figure]
) -> Figure | None:
    """Mean over positions, with an interval over rows: the positions of a row go together. `n` counts positions."""
    if not values:
        return None
    means = [float(part.mean()) for part in np.split(np.asarray(values), np.cumsum(counts)[:-1])]
    figure = interval(means, [float(count) for count in counts])
    return Figure(figure.value, figure.low, figure.high, len(values))


def facts_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the stage says of verify.json: verdict, metric, rows, tokens, and as text the gates that failed and what
    the reader is warned of."""
    failed = [gate for gate in document["gates"] if not gate["passed"]]
    return {
        "verdict": document["verdict"],
        "metric": document["metric"],
        "rows": document["rows"],
        "tokens": document["tokens"],
        "failed": [f"{gate['model']}: {gate['name']} {gate['value']} {gate['op']} {gate['target']}" for gate in failed],
        "warnings": [warning["text"] for warning in document["warnings"]],
    }
