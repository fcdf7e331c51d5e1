"""The one file that a report quotes, and the one model of the teacher that it is quoted against."""

from __future__ import annotations

from collections import Counter
from typing import Any

from distill2edge.cost.teacher_baselines import is_teacher_baseline, quality_floor
from distill2edge.quantize.schemes import is_compared
from distill2edge.report.figures import value_of

Document = dict[str, Any]


def headline_of(
    models: list[Document],
    gates: list[Document],
    bench: Document,
    workload: str | None,
    cost: Document | None,
    metric: str,
) -> Document | None:
    """The one file to quote, with its quality, size, speed and cost; None where no file may be quoted.

    Quality, size and speed are against one and the same model of the teacher, the baseline (`rival`).
    """
    comparison = (cost or {}).get("comparison") or {}
    chosen, cell = _quoted(models, comparison)
    if chosen is None:
        return None
    teacher: Document = next((model for model in models if model["id"] == "teacher"), {})
    against = _against(_teacher_baselines(models, gates), bench, cell, workload, comparison)
    speedup = _speedup(bench, cell, workload, {str(against.get("id"))})
    sizes = (against.get("size_bytes"), chosen.get("size_bytes"))
    return {
        "model": chosen["id"],
        "cell": cell,
        "metric": metric,
        "score": chosen.get("score"),
        "teacher_score": teacher.get("score"),
        "control_score": next((m.get("score") for m in models if m.get("role") == "control"), None),
        "rival": against.get("id"),
        "rival_score": against.get("score"),
        "kept": _kept(chosen, against),
        "retained": chosen.get("retained"),
        "kl_student": chosen.get("kl_student"),
        "size_bytes": sizes[1],
        "teacher_size_bytes": sizes[0],
        "teacher_size_of": against.get("id"),
        "size_ratio": sizes[0] / sizes[1] if sizes[0] and sizes[1] else None,
        "latency_ms": next((c["latency_ms"] for c in chosen["cells"] if c["id"] == cell), None),
        "contended": _contended(bench, cell, speedup),
        "speedup": speedup,
        **_saving(comparison),
    }


def _saving(comparison: Document) -> Document:
    """What the comparison of cost.json says, in the headline's words."""
    return {
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


def _quoted(models: list[Document], comparison: Document) -> tuple[Document | None, str | None]:
    """The file to quote and its cell: the one that the cost comparison chose, else the fastest that passed."""
    # What no gate holds (an arm made to compare) is not shipped, however fast it is.
    shipped = [
        model
        for model in models
        if model.get("role") == "student"
        and model["passed"] is True
        and not model.get("error")
        and model.get("above_baseline") is not False
        and not is_compared(str(model["id"]))
    ]
    files = [model for model in shipped if not str(model.get("scheme", "")).startswith("torch")] or shipped
    # What is compared may be the dense student, where the teacher ran in PyTorch alone: the file to quote ships.
    cells = [str(comparison.get("student", "")), str((comparison.get("shipped") or {}).get("cell", ""))]
    for cell in cells:
        for model in files:
            if model["id"] == cell.split("@", 1)[0]:
                return model, cell
    fastest = min(files, key=lambda model: _best_latency(model) or float("inf"), default=None)
    return fastest, None if fastest is None else _best_cell(fastest)


def measured(report: Document) -> Document:
    """Figures of the file to quote as they were measured, whether or not a headline may be claimed.

    Where none is, the file is the one of which the fewest gates failed; of those the fastest, else the smallest.

    Args:
        report: report.json.

    Returns:
        `model`, `cell`, `score`, `retained`, `kl_student`, `size_bytes`, `latency_ms`, `speedup` (of the bench, against
        the fastest baseline of the teacher) and `cost_per_1000` with the bounds of its price; None where there is none.
    """
    headline, models, bench = report["headline"] or {}, report["models"], report["bench"]
    by_id = {str(model["id"]): model for model in models}
    chosen: Document = by_id.get(str(headline.get("model"))) or _least_failed(models, report["gates"]) or {}
    cell = headline.get("cell") or _best_cell(chosen)
    baselines = {str(model["id"]) for model in _teacher_baselines(models, report["gates"])}
    timed = (one for one in chosen.get("cells") or () if one.get("id") == cell)
    return {
        "model": chosen.get("id"),
        "cell": cell,
        **{key: chosen.get(key) for key in ("score", "retained", "kl_student", "size_bytes")},
        "latency_ms": next((one.get("latency_ms") for one in timed), None),
        "speedup": headline.get("speedup") or _speedup(bench, cell, report["pareto"].get("workload"), baselines),
        "cost_per_1000": _price(report["cost"] or {}, cell),
    }


def _least_failed(models: list[Document], gates: list[Document]) -> Document | None:
    own = [model for model in models if model.get("role") == "student" and not model.get("error")]
    files = [model for model in own if not str(model.get("scheme", "")).startswith("torch")] or own
    ships = [model for model in files if not is_compared(str(model["id"]))]
    failed = Counter(str(gate["model"]) for gate in gates if not gate["passed"])
    never = float("inf")
    return min(
        ships,
        key=lambda model: (
            failed[str(model["id"])],
            _best_latency(model) or never,
            value_of(model.get("size_bytes")) or never,
        ),
        default=None,
    )


def _price(cost: Document, cell: str | None) -> Document | None:
    """US dollars for 1,000 requests of a cell, on the student's own box where it is priced there."""
    four = cost.get("four_cells") or {}
    places = [(four.get(key) or {}).get("place") for key in ("student_best_box", "student_same_box")]
    priced = {one.get("place"): one for one in reversed(cost.get("cells") or []) if one.get("cell") == cell}
    found = next((priced[place] for place in places if place in priced), None) or next(iter(priced.values()), None)
    return found and {"value": found.get("at_utilisation"), "low": found.get("low"), "high": found.get("high")}


def _against(
    baselines: list[Document], bench: Document, cell: str | None, workload: str | None, comparison: Document
) -> Document:
    """The one model of the teacher that the student is quoted against: that of the cost comparison where it is of the
    same cell, else the fastest, else the smallest."""
    by_id = {str(model["id"]): model for model in baselines}
    priced = str(comparison.get("teacher", "")).split("@", 1)[0]
    if comparison.get("student") == cell and priced in by_id:
        return by_id[priced]
    fastest = _speedup(bench, cell, workload, set(by_id))
    if fastest is not None:
        return by_id[str(fastest["against"]).split("@", 1)[0]]
    return min(baselines, key=lambda model: float(model["size_bytes"]), default={})


def _kept(chosen: Document, against: Document) -> Document | None:
    """The student's score over the baseline's, with its paired interval."""
    paired: Document | None = (chosen.get("kept") or {}).get(against.get("id"))
    if paired is None and against.get("id") == "teacher":
        paired = chosen.get("retained")
    if paired is not None:
        return paired
    mine, theirs = value_of(chosen.get("score")), value_of(against.get("score"))
    return {"value": mine / theirs} if mine is not None and theirs else None


def _contended(bench: Document, cell: str | None, speedup: Document | None) -> bool:
    """Whether one of the two speeds was measured on a busy machine."""
    names = {cell, (speedup or {}).get("against")}
    return any(one.get("contended") for one in bench.get("cells", []) if one["id"] in names)


def _teacher_baselines(models: list[Document], gates: list[Document]) -> list[Document]:
    """The teacher and those of its own quantized files that meet the student's gate on quality.

    The student is quoted against one of them: the teacher's file is quantized for free.
    """
    floor = quality_floor(gates)
    return [model for model in models if is_teacher_baseline(model, floor) and model.get("size_bytes")]


def _best_cell(model: Document) -> str | None:
    timed = [cell for cell in model.get("cells") or () if not cell.get("error") and value_of(cell.get("latency_ms"))]
    best = min(timed, key=lambda cell: value_of(cell["latency_ms"]) or 0.0, default=None)
    return None if best is None else str(best["id"])


def _best_latency(model: Document) -> float | None:
    best = _best_cell(model)
    return next((value_of(cell["latency_ms"]) for cell in model.get("cells") or () if cell["id"] == best), None)


def _speedup(bench: Document, cell: str | None, workload: str | None, baselines: set[str]) -> Document | None:
    """Against the fastest of these baselines: the smallest speed-up, so that no slow one flatters the student."""
    rows = [
        row
        for row in bench.get("speedups", [])
        if row.get("cell") == cell
        and row.get("workload") == workload
        and str(row.get("against", "")).split("@", 1)[0] in baselines
        and value_of(row.get("ratio")) is not None
    ]
    return min(rows, key=lambda row: value_of(row["ratio"]) or 0.0, default=None)
