"""The charts of lines: cost by utilisation, break-even, losses. A legend names the lines, so no label lies on one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from distill2edge.recipe.loss_terms import CE, LAYERS, TERMS, label_of
from distill2edge.report import figures
from distill2edge.report.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LINE,
    RIGHT,
    TOP,
    WIDTH,
    Drawing,
    Key,
    Scale,
    fit_scale,
    left_of,
    legend_lines,
    shorten,
)

Document = dict[str, Any]


class Plot:
    """A drawing with a legend over it: how high it is, and from where to where the lines go."""

    def __init__(self, title: str, keys: Sequence[Key]) -> None:
        taken = LINE * len(legend_lines(keys))
        self.left, self.top, self.bottom = LEFT, TOP + taken, BOTTOM + taken
        self.drawing = Drawing(title, height=HEIGHT + taken)
        self.drawing.legend(keys, TOP - 8)

    def y_axis(self, scale: Scale, write: Callable[[float], str], title: str) -> float:
        """The y axis; where the lines begin."""
        self.left = left_of(scale, write)
        self.drawing.y_axis(scale, self.left, RIGHT, write, title)
        return self.left

    def columns(self, places: Sequence[tuple[float, str]], title: str) -> None:
        """An x axis of a few named places."""
        for x, name in places:
            self.drawing.line(x, self.top, x, self.bottom, "grid")
            self.drawing.text(x, self.bottom + 17, name, "tick", "middle")
        self.drawing.line(self.left, self.bottom, RIGHT, self.bottom, "axis")
        self.drawing.text((self.left + RIGHT) / 2, self.bottom + 36, title, "axis-title", "middle")


def cost_chart(cost: Document) -> Markup | None:
    """US dollars for 1,000 requests by utilisation; the compared pair is bold."""
    cells = [cell for cell in cost.get("cells", []) if cell.get("cost_per_1000")]
    if not cells:
        return None
    values = [v for cell in cells for v in cell["cost_per_1000"].values() if v > 0]
    if not values:  # a box that is owned and whose power costs nothing
        return None
    names = list(cells[0]["cost_per_1000"])
    comparison = cost.get("comparison") or {}
    pair = {(comparison.get("teacher"), comparison.get("teacher_place")),
            (comparison.get("student"), comparison.get("student_place"))}  # fmt: skip
    ordered = sorted(cells, key=lambda cell: (cell["cell"], cell["place"]) in pair)
    bold = [cell for cell in ordered if (cell["cell"], cell["place"]) in pair]
    keys = []
    for cell in reversed(bold):
        named = shorten(f"{cell['cell']}, {cell['label']}", WIDTH - 40)
        keys.append(Key(named, f"series {_role(cell)} bold", _role(cell)))
    others = dict.fromkeys(_role(cell) for cell in ordered if cell not in bold)
    keys += [Key(f"{'other ' if bold else ''}cells of the {role}", f"series {role}") for role in others]
    plot = Plot("Cost of 1,000 requests by utilisation", keys)
    y_scale = fit_scale(values, plot.bottom, plot.top, log=True)
    left = plot.y_axis(y_scale, figures.usd_tick, "US dollars per 1,000 requests (logarithmic)")
    x_scale = fit_scale([float(name) for name in names], left, RIGHT - 10, log=True, pad=0.04)
    plot.columns(
        [(x_scale(float(name)), f"{float(name):.0%}") for name in names], "share of the time the machine is busy"
    )
    for cell in ordered:
        role, title = _role(cell), f"{cell['cell']} on {cell['label']}"
        line = [(x_scale(float(name)), y_scale(max(cell["cost_per_1000"][name], y_scale.low))) for name in names]
        plot.drawing.path(line, f"series {role}{' bold' if cell in bold else ''}", title)
        for (x, y), name in zip(line, names, strict=True):
            if cell in bold:
                said = f"{title}: {figures.usd(cell['cost_per_1000'][name])} at {float(name):.0%} busy"
                plot.drawing.marker(x, y, role, said)
    return plot.drawing.render()


def _role(cell: Document) -> str:
    """teacher or student; an API is the teacher's."""
    return str(cell["model"]).split("/")[0]


def break_even_chart(cost: Document) -> Markup | None:
    """Money spent against requests served; the student has paid for itself where the lines cross."""
    comparison = cost.get("comparison")
    one_off = (cost.get("one_off") or {}).get("total_usd")
    if not comparison or one_off is None:
        return None
    teacher, student = comparison["teacher_per_1000"] / 1000, comparison["student_per_1000"] / 1000
    meet = comparison.get("break_even_requests")
    last = 2.2 * meet if meet else 12.0 * (cost.get("requests_per_month") or 100_000)
    top = max(last * teacher, one_off + last * student)
    if last <= 0 or top <= 0:
        return None
    keys = [Key(role, f"series {role} bold") for role in ("teacher", "student")]
    keys += [Key(f"break-even after {figures.count(meet)} requests", "gate", "student")] if meet else []
    plot = Plot("Money spent against requests served", keys)
    y_scale = Scale(0, top * 1.06, plot.bottom, plot.top)
    left = plot.y_axis(y_scale, figures.usd_tick, "US dollars spent")
    x_scale = Scale(0, last, left, RIGHT)
    drawing = plot.drawing
    drawing.x_axis(x_scale, plot.bottom, plot.top, figures.count, "requests served")
    lines = {"teacher": (0.0, last * teacher), "student": (one_off, one_off + last * student)}
    if meet:
        x, y = x_scale(meet), y_scale(meet * teacher)
        ends = [y_scale(lines[role][1]) for role in ("teacher", "student")]
        drawing.add(
            "polygon", points=f"{x:.1f},{y:.1f} {RIGHT:.1f},{ends[0]:.1f} {RIGHT:.1f},{ends[1]:.1f}", class_="saved"
        )
    for role, (first, end) in lines.items():
        drawing.path(
            [(left, y_scale(first)), (RIGHT, y_scale(end))], f"series {role} bold", f"{role}: {figures.usd(end)}"
        )
    if meet:
        drawing.line(x, y, x, plot.bottom, "gate")
        drawing.marker(x, y, "student", f"break-even after {figures.count(meet)} requests")
    return drawing.render()


WITHOUT_LAYERS = {name: 0.0 for name, term in TERMS.items() if term.needs in LAYERS}
"""What an assistant does not minimise: its layers are compared with the student's alone."""


def loss_name(weights: Any) -> str:
    """`0.5 cross-entropy + 0.5 forward KL`: what a training minimises."""
    terms = [(label, figures.value_of(w)) for key, w in (weights or {}).items() if (label := label_of(key))]
    terms = [(name, weight) for name, weight in terms if weight]
    if len(terms) == 1 and terms[0][1] == 1:
        return terms[0][0]
    return " + ".join(f"{figures.tick(weight)} {name}" for name, weight in terms if weight) or "training loss"


def training_charts(report: Document) -> list[tuple[str, Markup]]:
    """Loss by step, a chart for each quantity: the losses of student, control, assistant and validation may be others.

    Returns:
        title and chart of each.
    """
    training = report["training"]
    weights = ((report["reproduce"].get("recipe") or {}).get("distill") or {}).get("loss") or {}
    groups: dict[str, list[tuple[str, str, list[tuple[float, float]]]]] = {}
    for role in ("student", "control", "assistant"):
        record = training.get(role) or {}
        trained = CE if role == "control" else loss_name(weights | (WITHOUT_LAYERS if role == "assistant" else {}))
        held = CE if record.get("eval_loss") == CE else trained
        for kind, loss, curve in (
            ("training", trained, _curve(record.get("log"), ("loss",))),
            ("validation", held, _curve(record.get("eval"), ("loss", "eval_loss"))),
        ):
            if len(curve) > 1 or (curve and kind == "validation"):
                groups.setdefault(loss, []).append((role, kind, curve))
    return [(f"Loss: {loss}", loss_chart(loss, curves)) for loss, curves in groups.items()]


def loss_chart(loss: str, curves: Sequence[tuple[str, str, list[tuple[float, float]]]]) -> Markup:
    """One loss by training step.

    Args:
        curves: role, `training` or `validation`, and (step, loss) of each.
    """
    keys = [
        Key(f"{role}, {kind}", _series(role, kind), role if kind == "validation" else "") for role, kind, _ in curves
    ]
    plot = Plot(f"{loss} by training step", keys)
    y_scale = fit_scale([y for _, _, points in curves for _, y in points], plot.bottom, plot.top, log=None)
    left = plot.y_axis(y_scale, figures.tick, "loss" + (" (logarithmic)" if y_scale.log else ""))
    x_scale = fit_scale([x for _, _, points in curves for x, _ in points], left, RIGHT, log=False, pad=0.02)
    plot.drawing.x_axis(x_scale, plot.bottom, plot.top, figures.count, "optimizer step")
    for role, kind, points in reversed(curves):
        line = [(x_scale(x), y_scale(y)) for x, y in points]
        plot.drawing.path(line, _series(role, kind), f"{role}, {kind} loss")
        if kind == "validation":
            for (x, y), (step, value) in zip(line, points, strict=True):
                plot.drawing.marker(x, y, role, f"{role}, step {step:g}: validation loss {figures.number(value)}")
    return plot.drawing.render()


def _series(role: str, kind: str) -> str:
    return f"series {role} bold{' dashed' if kind == 'validation' else ''}"


def _curve(rows: Any, keys: tuple[str, ...]) -> list[tuple[float, float]]:
    if not isinstance(rows, list):
        return []
    found = []
    for row in rows:
        loss = next(
            (figures.value_of(row.get(key)) for key in keys if figures.value_of(row.get(key)) is not None), None
        )
        step = figures.value_of(row.get("step"))
        if loss is not None and step is not None:
            found.append((step, loss))
    return found
