"""Several seeds of one recipe: which stages they share, and one report over all of them.

The teacher, its signal and the split of the rows are the recipe's own; what trains the student is done again for each
seed. So every seed is judged on the same rows against the same teacher, and rows pair.

Each seed is benched too, on one workload: its files are others (a mix chooses types by the weights), its report may
claim only what was measured of them, and a speed-up is a ratio of neighbours in time, the teacher's among them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from distill2edge.errors import UserError
from distill2edge.report.document import over_seeds
from distill2edge.util.bootstrap import mean_interval
from distill2edge.verify.metrics import METRICS

Document = dict[str, Any]
_OVER_SEEDS = (
    "kl_student", "kl_teacher", "top1_student", "top1_teacher", "perplexity", "output_length_ratio",
    "exact", "steps_off", "ndcg", "mrr", "ndcg_retained",
)  # fmt: skip


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2`.

    Raises:
        UserError: no list of different whole numbers from 0.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise UserError(f"{text[:60]!r} is not a list of seeds: whole numbers from 0, separated by commas",
                        where="--seeds", fix="write --seeds 0,1,2")  # fmt: skip
    seeds = tuple(map(int, parts))
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        listed = ",".join(map(str, dict.fromkeys(seeds)))
        raise UserError(f"seed {twice[0]} is named twice", where="--seeds", fix=f"write --seeds {listed}")
    return seeds


def combine(reports: Sequence[Document]) -> Document:
    """One report over the reports of several seeds, the first of which gives what no seed moves (sizes, speeds, cost).

    Scores are means over the seeds, row by row, with an interval over rows (see `benchmarks/common.paired`: seeds are
    too few to resample as rows are); what has no value for each row is a mean over seeds with the wider of two
    intervals, over seeds and over rows.

    Returns:
        report.json with `seeds`: `seeds`, and of each its verdict and headline. The verdict passes where every seed's
        does; a gate has the value of its worst seed.

    Raises:
        UserError: reports of other rows, another metric, or other models.
    """
    first = reports[0]
    for other in reports[1:]:
        if _same(other) != _same(first):
            raise UserError(
                "these reports are not of one recipe under several seeds: their test rows, metric or models differ",
                where=str(other.get("name")), fix="distill2edge run RECIPE --seeds 0,1,2",
            )  # fmt: skip
    models = [_model(index, reports) for index in range(len(first["models"]))]
    runs = [
        {
            "seed": report["seed"],
            "verdict": report["verdict"]["result"],
            "headline": report["headline"],
            "scores": {model["id"]: (model.get("score") or {}).get("value") for model in report["models"]},
        }
        for report in reports
    ]
    seeds = {"seeds": [report["seed"] for report in reports], "runs": runs}
    return over_seeds(copy.deepcopy(first), models, _gates(reports), _warnings(reports), seeds)


def _same(report: Document) -> Any:
    test = ((report["data"].get("splits") or {}).get("test") or {}).get("sha256")
    return test, report["metric"]["name"], report["metric"]["rows"], [model["id"] for model in report["models"]]


def _model(index: int, reports: Sequence[Document]) -> Document:
    mates = [report["models"][index] for report in reports]
    model: Document = copy.deepcopy(mates[0])
    model["error"] = next((mate["error"] for mate in mates if mate.get("error")), None)
    passed = [mate["passed"] for mate in mates]
    model["passed"] = None if None in passed else all(passed)
    above = [mate.get("above_baseline") for mate in mates]
    model["above_baseline"] = False if False in above else above[0]
    if model["error"]:
        return model
    for key in _OVER_SEEDS:
        figures = [mate[key] for mate in mates if mate.get(key) is not None]
        if key in model:
            model[key] = _mean(figures) if len(figures) == len(mates) else None
    for key in ("balanced_accuracy", "macro_f1", "ece", "weighted_kappa", "kl_student_p99"):
        found = [mate[key] for mate in mates if mate.get(key) is not None]
        model[key] = fmean(found) if len(found) == len(mates) else None
    return model | _scores(model, reports)


def _mean(figures: Sequence[Document]) -> Document:
    """Over seeds. The interval is the wider one: over seeds, or that over rows, whose luck all seeds share."""
    over = mean_interval([figure["value"] for figure in figures])
    low, high = (fmean(figure[end] for figure in figures) for end in ("low", "high"))
    return {**over.as_dict(), "low": min(over.low, low), "high": max(over.high, high)}


def _scores(model: Document, reports: Sequence[Document]) -> Document:
    """Score, retained and kept, each row first averaged over its seeds."""
    rows = [report["row_scores"] for report in reports]
    metric, seed, units = METRICS[reports[0]["metric"]["name"]], int(reports[0]["seed"] or 0), rows[0]["units"]

    def mean(name: str) -> list[float] | None:
        if not all(name in each["scores"] for each in rows):
            return None
        return [fmean(row) for row in zip(*(each["scores"][name] for each in rows), strict=True)]

    mine = mean(model["id"])
    if mine is None:
        return {}
    found: Document = {"score": metric.figure(mine, units, seed, len(rows)).as_dict(), "kept": {}}
    for other in model.get("kept") or {}:
        theirs = mean(other)
        figure = None if theirs is None else metric.ratio(mine, theirs, units, seed, len(rows))
        if figure:
            found["kept"][other] = figure.as_dict()
    teacher = mean("teacher")
    if model.get("retained") is not None and teacher is not None:
        figure = metric.ratio(mine, teacher, units, seed, len(rows))
        found["retained"] = figure and figure.as_dict()
    return found


def _gates(reports: Sequence[Document]) -> list[Document]:
    """Each gate with the value of its worst seed; it passes where it does in all."""
    by_seed = [{(gate["model"], gate["name"]): gate for gate in report["gates"]} for report in reports]
    found = []
    for key in dict.fromkeys(key for gates in by_seed for key in gates):
        mates = [gates[key] for gates in by_seed if key in gates]
        worst = min(mates, key=lambda gate: (gate["passed"], _margin(gate)))
        found.append({**worst, "passed": all(gate["passed"] for gate in mates)})
    return found


def _margin(gate: Document) -> float:
    if gate["value"] is None:
        return float("-inf")
    return float(gate["value"] if gate["op"] == ">=" else -gate["value"])


def _warnings(reports: Sequence[Document]) -> list[Document]:
    """Every warning once, with the seeds that have it where others do not."""
    seeds: dict[str, list[Any]] = {}
    warnings: dict[str, Document] = {}
    for report in reports:
        for warning in report["verdict"]["warnings"]:
            seeds.setdefault(warning["text"], []).append(report["seed"])
            warnings[warning["text"]] = warning
    found = []
    for text, warning in warnings.items():
        some = "" if len(seeds[text]) == len(reports) else f" (seed {', '.join(map(str, seeds[text]))})"
        found.append({**warning, "text": text + some})
    return sorted(found, key=lambda warning: bool(warning["headline"]))
