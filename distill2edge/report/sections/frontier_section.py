"""Quality against latency and against size, with what needs no model as a line across."""

from __future__ import annotations

from markupsafe import Markup

from distill2edge.report import charts, figures
from distill2edge.report.blocks import Block, Document, Legend, Section, beside, chart
from distill2edge.report.units import unit_of

_MARKS = {
    "teacher": ('<rect x="2" y="2" width="10" height="10" rx="1.5" class="mark teacher"/>', "teacher"),
    "student": ('<circle cx="7" cy="7" r="5.5" class="mark student"/>', "student"),
    "control": ('<path d="M7 1.5L13 12H1Z" class="mark control"/>', "student without the teacher (control)"),
}
"""Mark and words of each role, in the order of the legend."""


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    metric, pareto, levels = report["metric"], report["pareto"], baselines(report)
    one = unit_of(report).request
    latency = charts.pareto_chart(
        pareto["latency"],
        metric,
        x_title=f"milliseconds per {one}, {pareto['workload']}",
        x_unit=f"ms per {one}",
        levels=levels,
    )
    size = charts.pareto_chart(pareto["size"], metric, x_title="megabytes on disk", x_unit="MB", levels=levels)
    better = "Up and to the left is better." if metric["higher_is_better"] else "Down and to the left is better."
    note = f"{better} Thin lines are 95% intervals; hover over a mark for its figures."
    pair = beside(
        chart(latency, "Quality against latency", note),
        chart(size, "Quality against size", "Size is what a device must store."),
    )
    return [] if pair is None else [_legend({str(model.get("role")) for model in report["models"]}), pair]


def baselines(report: Document) -> list[tuple[str, float]]:
    """Name and score of what needs no model, as lines of a chart."""
    baseline = report["metric"].get("baseline") or {}
    name = str(baseline.get("name", "")).split(",")[0].split(":")[0]
    found = [(name, figures.value_of(baseline.get("score"))), ("chance", figures.value_of(baseline.get("chance")))]
    return [(name, value) for name, value in found if value is not None]


def _legend(roles: set[str]) -> Legend:
    def mark(shape: str, width: int = 14, class_: str = "") -> Markup:
        return Markup(f'<svg viewBox="0 0 {width} 14"{class_} aria-hidden="true">{shape}</svg>')

    hollow = '<circle cx="7" cy="7" r="5" class="mark student hollow"/>'
    line = '<path d="M1 11H11V3H21" class="frontier"/>'
    return Legend(
        (
            *[(mark(shape), words) for role, (shape, words) in _MARKS.items() if role in roles],
            (mark(hollow), "hollow: a gate failed"),
            (mark(line, 22, ' class="wide"'), "frontier"),
        )
    )


SECTION = Section("frontier", "Quality, speed, size", "Quality against speed and size", blocks)
