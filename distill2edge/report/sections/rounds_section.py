"""Rounds of self-improvement: the curve of each arm, and its table. Reads report.json alone."""

from __future__ import annotations

from markupsafe import Markup

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Cell, Document, Section, Table, beside, chart, figure, present, row
from distill2edge.report.curves import Plot
from distill2edge.report.svg import RIGHT, Key, Scale, fit_scale

# The arm that is shipped, the arm without checks, and the model as it was: mark and colour of the three roles.
_ROLES = {"verified": "student", "unverified": "control", "no self-training": "teacher"}


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    drawn = chart(
        rounds_chart(report.get("rounds")),
        "Score by round",
        "Disc: trained on what passed the checks. Triangle: trained on everything it wrote. Square: not trained "
        "on its own text.",
    )
    return present(beside(drawn, rounds_table(report)))


def rounds_chart(rounds: Document | None) -> Markup | None:
    """Score by round, a line for each arm, 95% intervals as thin lines."""
    if not rounds:
        return None
    arms = rounds["arms"]
    last = max(item["round"] for items in arms.values() for item in items)
    bounds = [figures.bounds(item["score"]) for items in arms.values() for item in items]
    values = [item["score"]["value"] for items in arms.values() for item in items]
    values += [value for pair in bounds if pair for value in pair]
    order = sorted(arms, key=list(_ROLES).index)
    plot = Plot(
        "Score by round of self-training", [Key(arm, f"series {_ROLES[arm]} bold", _ROLES[arm]) for arm in order]
    )
    y_scale = fit_scale(values, plot.bottom, plot.top, log=False, pad=0.1)
    left = plot.y_axis(y_scale, figures.tick, figures.metric(rounds["metric"]))
    x_scale = Scale(0, last, left + 10, RIGHT - 10)
    plot.columns([(x_scale(number), str(number)) for number in range(last + 1)], "round (0: before any)")
    for arm in reversed(order):
        role = _ROLES[arm]
        at = [(x_scale(item["round"]), y_scale(item["score"]["value"]), item) for item in arms[arm]]
        plot.drawing.path([(x, y) for x, y, _ in at], f"series {role} bold", arm)
        for x, y, item in at:
            interval = figures.bounds(item["score"])
            if interval is not None:
                plot.drawing.line(x, y_scale(interval[0]), x, y_scale(interval[1]), f"whisker {role}")
            plot.drawing.marker(x, y, role, f"{arm}, round {item['round']}: {figures.interval(item['score'])}")
    return plot.drawing.render()


def rounds_table(report: Document) -> Table | None:
    """Every arm and round: its score, and of what it wrote how much it trained on."""
    rounds = report.get("rounds")
    if not rounds:
        return None
    rows = [
        row(arm, str(item["round"]), figure(item["score"]), _share(item, "passed"), _share(item, "kept"))
        for arm in sorted(rounds["arms"], key=list(_ROLES).index)
        for item in rounds["arms"][arm]
    ]
    note = (
        f"{rounds['rows']:,} held-out rows, greedy answers. Round 0 is the model before it trained on its own text. "
        "Shares are of the answers it wrote. Passed: the answer ended, and every check of the arm accepted it. Kept: "
        "trained on; equal answers to one prompt count once."
    )
    heads = ["arm", "round", figures.metric(rounds["metric"]), "passed", "kept"]
    return Table("Self-training by round", heads, rows, 1, note)


def _share(item: Document, part: str) -> Cell:
    if item.get("written") is None or item.get(part) is None:
        return Cell("", "weak")
    return Cell(figures.percent(item[part] / item["written"]), beside=f"{item[part]:,}")


SECTION = Section("rounds", "Rounds", "Rounds of self-training", blocks)
