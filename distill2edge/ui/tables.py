"""What the pages show of runs: rows of the list, how a run goes, a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from distill2edge.errors import UserError
from distill2edge.report import figures
from distill2edge.report.blocks import Cell, Fact, figure
from distill2edge.report.charts import pareto_chart
from distill2edge.report.compare import compare, comparison_parts
from distill2edge.report.curves import loss_chart
from distill2edge.report.frontier import pareto
from distill2edge.report.svg import shorten
from distill2edge.ui.runs import DAMAGED, Listed, losses, tail
from distill2edge.util.terminal import printable

Document = dict[str, Any]
_LINES = 25
"""Of run.log, that a run's page shows."""
_COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("file", "file", None),
    ("score", "score", figures.number),
    ("quality kept", "retained", figures.percent),
    ("size", "size_bytes", figures.size),
    ("time of a request", "latency_ms", figures.milliseconds),
    ("speed-up", "speedup", figures.ratio),
    ("cost of 1,000", "cost_per_1000", figures.usd),
)
"""Name, key of the figures and writer of each column of the list."""


def columns(runs: Sequence[Listed]) -> list[str]:
    """Heads of the columns of figures; none where no run has any."""
    return [name for name, _, _ in _COLUMNS] if any(run.figures for run in runs) else []


def cells(run: Listed) -> list[Cell]:
    """The figures of a run, a cell for each column; empty where it has none."""
    if not run.figures:
        return [Cell("") for _ in _COLUMNS]
    made = []
    for _, key, write in _COLUMNS:
        if write is None:
            made.append(Cell(str(run.figures[key] or figures.MISSING).removeprefix("student/"), "mono"))
            continue
        cell = figure(run.figures[key], write)
        metric = figures.metric(run.figures["metric"]) if key == "score" else ""
        made.append(Cell(cell.text, beside=metric))
    return made


@dataclass(frozen=True)
class Going:
    """How a run goes, or went.

    Attributes:
        line: one sentence, read aloud where it changes.
        parts: name, done, total and a note of each bar.
        facts: of its last training: step, losses.
        chart: the losses so far.
        log: the last lines of run.log.
    """

    line: str
    parts: tuple[tuple[str, int, int, str], ...] = ()
    facts: tuple[Fact, ...] = ()
    chart: Markup | None = None
    log: str = ""


def progress(run: Listed) -> Going:
    """How a run goes."""
    log = printable("\n".join(tail(run.path / "run.log", _LINES))) if not run.path.is_symlink() else ""
    status, line = run.status, {"running": "The run is at work"}.get(run.state, "")
    if status is None or run.state not in ("running", "silent", "killed"):
        return Going(line, log=log)
    parts = []
    if status.stages:
        parts.append(("stages", max(status.number - 1, 0), len(status.stages), ""))
    if status.stage:
        where = f", stage {status.number} of {len(status.stages)}" if status.number else ""
        seed = f", seed {status.seed}" if status.seed is not None else ""
        line = f"{'At' if run.state != 'killed' else 'It ended at'} {status.stage}{where}{seed}"
    if status.task:
        parts.append((*status.task, status.note))
    facts, chart = _training(run) if status.stage else ((), None)
    return Going(line, tuple(parts), facts, chart, log)


def _training(run: Listed) -> tuple[tuple[Fact, ...], Markup | None]:
    """Figures and curve of the training at work."""
    stage, rows = losses(run.path)
    if not rows or run.status is None or stage != run.status.stage:
        return (), None
    found = {}
    for key, kind in (("loss", "training"), ("eval_loss", "validation")):
        curve = [(float(row["step"]), value) for row in rows if (value := figures.value_of(row.get(key))) is not None]
        if curve:
            found[kind] = curve
    facts = tuple(
        Fact(f"{kind} loss at step {figures.count(curve[-1][0])}", figures.number(curve[-1][1]))
        for kind, curve in found.items()
    )
    curves = [("student", kind, curve) for kind, curve in found.items() if len(curve) > 1]
    try:
        return facts, loss_chart("loss", curves) if curves else None
    except DAMAGED:  # figures that no axis has room for
        return facts, None


def comparison(runs: Sequence[Listed]) -> Document:
    """What the compare page shows: `said` where nothing can be, and the parts of a comparison.

    Runs that differ are shown all the same: with what of them does not compare.
    """
    empty: Document = {"said": "", "names": [], "blocks": [], "differences": [], "chart": None, "without": []}
    whole = [run for run in runs if run.report is not None]
    without = [(run.name, run.why or f"it has no report: {run.state}") for run in runs if run.report is None]
    empty["without"] = without
    if len(whole) < 2:
        return {**empty, "said": "Choose at least two runs that have a report."}
    reports = [{**(run.report or {}), "name": run.name} for run in whole]
    try:
        document = compare(reports, allow=True)
        return {**empty, **comparison_parts(document), "chart": _frontier(whole, document)}
    except UserError as error:
        return {**empty, "said": str(error)}
    except DAMAGED as error:
        said = f"They cannot be compared: a report is damaged ({type(error).__name__}: {str(error)[:200]})."
        return {**empty, "said": said}


def _frontier(runs: Sequence[Listed], document: Document) -> Markup | None:
    """Quality against size of every file of the runs, where their scores compare."""
    if {one["what"] for one in document["differences"]} & {"task", "metric", "test data"}:
        return None
    first = runs[0].report or {}
    points = []
    for run in runs:
        for point in (run.report or {})["pareto"].get("size") or ():
            role, slash, scheme = str(point["id"]).partition("/")
            if role == "student" and slash:
                points.append({**point, "id": f"student/{shorten(run.name, 110)} {scheme}"})
    metric = first["metric"]
    marked = pareto(points, bool(metric.get("higher_is_better", True)))
    return pareto_chart(marked, metric, x_title="megabytes on disk", x_unit="MB")
