"""The charts of quality, size, speed and divergence. Each returns None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from distill2edge.report import figures
from distill2edge.report.label_places import Box, Placed, Segment, Spot, draw_labels, place_labels
from distill2edge.report.svg import (
    BOTTOM,
    HEIGHT,
    RIGHT,
    TICK,
    TOP,
    WIDTH,
    Drawing,
    Scale,
    fit_scale,
    left_of,
    shorten,
    text_width,
)

Document = dict[str, Any]
_LONGEST = 34
"""Characters of a label in a chart; the mark's title has the whole name."""
_HEIGHTS = (HEIGHT + 80, HEIGHT + 160, HEIGHT + 240)
"""A chart is made higher, as long as that gives more labels a place."""


def short_name(name: str) -> str:
    """`student/gguf:Q4_0@cpu` -> `gguf Q4_0`; roles show by mark and colour."""
    model, _, device = name.partition("@")
    role, _, scheme = model.partition("/")
    label = scheme.replace(":", " ") if scheme else role
    label = f"{label} ({device})" if device and device != "cpu" else label
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 3]}..."


def role_of(point: Document) -> str:
    """teacher, control or student: the class of a mark."""
    role = str(point.get("role") or "student")
    return role if role in ("teacher", "control") else "student"


def pareto_chart(
    points: list[Document],
    metric: Document,
    *,
    x_title: str,
    x_unit: str,
    levels: Sequence[tuple[str, float]] = (),
) -> Markup | None:
    """Quality against latency or size; the frontier is drawn, intervals are thin lines.

    A name that has no room near its mark is left out, and how many are is said.

    Args:
        levels: name and score of what needs no model, a line across.
    """
    if not points:
        return None
    best = _Layout(points, levels, HEIGHT)
    for height in _HEIGHTS:
        if best.missing:
            best = min(best, _Layout(points, levels, height), key=lambda layout: layout.missing)
    name = figures.metric(metric["name"])
    better = "" if metric["higher_is_better"] else " (lower is better)"
    drawing = Drawing(
        f"{name} against {x_title}, {len(points)} points", height=best.height + (24 if best.missing else 0)
    )
    drawing.x_axis(best.x_scale, best.bottom, TOP, figures.tick, x_title)
    drawing.y_axis(best.y_scale, best.left, RIGHT, figures.tick, name + better)
    for line, class_ in best.lines:
        drawing.line(*line, class_)
    drawing.path(best.edge, "frontier", "Pareto frontier: nothing here is both better and smaller or faster")
    for x, y, point in best.at:
        verdict = {True: ", gates passed", False: ", gates failed", None: ""}[point.get("passed")]
        title = (
            f"{point['id']}: {name} {figures.interval(point['y'])}, "
            f"{figures.number(_value(point['x']))} {x_unit}{verdict}{', on the frontier' if point['frontier'] else ''}"
        )
        drawing.marker(x, y, role_of(point), title, hollow=point.get("passed") is False)
    draw_labels(drawing, best.spots, best.placed, "label")
    if best.missing:
        said = f"No room for {best.missing} of {len(best.spots)} names; the tables have them all."
        drawing.text(4, best.height + 13, said, "axis-title")
    return drawing.render()


class _Layout:
    """Where everything of a Pareto chart stands, at one height."""

    def __init__(self, points: Sequence[Document], levels: Sequence[tuple[str, float]], height: float) -> None:
        self.height, self.bottom = height, height - (HEIGHT - BOTTOM)
        xs = [value for point in points for value in _extent(point["x"])]
        ys = [value for point in points for value in _extent(point["y"])] + [value for _, value in levels]
        self.y_scale = fit_scale(ys, self.bottom, TOP, log=False, pad=0.1)
        self.left = left_of(self.y_scale, figures.tick)
        self.x_scale = fit_scale(xs, self.left, RIGHT)
        self.at = [(self.x_scale(_value(point["x"])), self.y_scale(_value(point["y"])), point) for point in points]
        self.edge = _edge(self.at)
        self.lines = self._lines([self.y_scale(value) for _, value in levels])
        order = sorted(self.at, key=lambda spot: not spot[2]["frontier"])
        self.spots: list[Spot] = [
            *[(self.left + 8, self.y_scale(value), level[:_LONGEST]) for level, value in levels],
            *[(x, y, short_name(str(point["id"]))) for x, y, point in order],
        ]
        drawn = [line for line, _ in self.lines] + [(*a, *b) for a, b in pairwise(self.edge)]
        bounds = Box(self.left + 2, TOP - 6, RIGHT + 10, self.bottom - 2)
        self.placed: list[Placed | None] = place_labels(self.spots, bounds, drawn)
        self.missing = self.placed.count(None)

    def _lines(self, levels: Sequence[float]) -> list[tuple[Segment, str]]:
        """Levels and intervals, with the class of each."""
        found: list[tuple[Segment, str]] = [((self.left, y, RIGHT, y), "level") for y in levels]
        for x, y, point in self.at:
            for low, high in filter(None, [figures.bounds(point["y"])]):
                found.append(((x, self.y_scale(low), x, self.y_scale(high)), f"whisker {role_of(point)}"))
            for low, high in filter(None, [figures.bounds(point["x"])]):
                found.append(((self.x_scale(low), y, self.x_scale(high), y), f"whisker {role_of(point)}"))
        return found


def _edge(at: Sequence[tuple[float, float, Document]]) -> list[tuple[float, float]]:
    """The corners of the frontier's steps."""
    edge: list[tuple[float, float]] = []
    for x, y, point in at:
        if point["frontier"]:
            edge += [(x, edge[-1][1])] if edge else []
            edge.append((x, y))
    return edge


def kl_of(model: Document) -> Any:
    """KL of a file from the model it was made of: the merged student, or the teacher."""
    return model.get("kl_teacher" if model.get("role") == "teacher" else "kl_student")


def kl_chart(models: list[Document], gates: list[Document], unit: str = "token") -> Markup | None:
    """Mean KL of each file from the model it was made of, with its interval and the gates; nats per `unit`."""
    rows = [
        model
        for model in models
        if not model.get("error") and (figures.value_of(kl_of(model)) or 0) > 0 and "/" in str(model["id"])
    ]
    if not rows:
        return None
    rows = sorted(rows, key=lambda model: _value(kl_of(model)))
    limits = sorted({float(gate["target"]) for gate in gates if "kl" in str(gate.get("name"))})
    labels = [
        shorten(("teacher " if role_of(model) == "teacher" else "") + short_name(str(model["id"])), WIDTH * 0.42)
        for model in rows
    ]
    left = max(text_width(label) for label in labels) + 20
    values = [v for model in rows for v in _extent(kl_of(model)) if v > 0] + limits
    gates_said = [f"gate {figures.tick(limit)}" for limit in limits]
    scale = _scale_beside(values, left, list(zip(limits, gates_said, strict=True)))
    heads = _gate_heads([(scale(limit), said) for limit, said in zip(limits, gates_said, strict=True)])
    top = 16.0 + 15 * max((line for *_, line in heads), default=0)
    height = top + 14 + 27.0 * len(rows) + 46
    drawing = Drawing("Mean KL divergence of each file", height=height)
    drawing.x_axis(scale, height - 46, top + 6, figures.tick, f"nats per {unit}, logarithmic (less is closer)")
    for x, said, line in heads:
        drawing.line(x, 4 + 15 * line, x, height - 46, "gate")
        drawing.text(x + 4, 14 + 15.0 * line, said, "gate-label")
    for index, (model, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + 22 + 27.0 * index
        value = _value(kl_of(model))
        drawing.text(left - 12, y + 4, label, "label", "end")
        interval = figures.bounds(kl_of(model))
        if interval is not None:
            low = max(interval[0], scale.low)
            drawing.line(scale(low), y, scale(max(interval[1], low)), y, f"whisker {role_of(model)}")
        title = (
            f"{model['id']}: KL {figures.interval(kl_of(model))} nats per {unit}, "
            f"p99 {figures.number(model.get('kl_student_p99'))}"
        )
        drawing.marker(scale(value), y, role_of(model), title, hollow=model.get("passed") is False)
    return drawing.render()


def _scale_beside(values: Sequence[float], left: float, gates: Sequence[tuple[float, str]]) -> Scale:
    """A logarithmic scale that ends early enough for the label of every gate to stand to the right of its line."""
    scale = fit_scale(values, left, RIGHT, log=True)
    over = max((scale(limit) + 4 + text_width(said, TICK) - WIDTH for limit, said in gates), default=0.0)
    return fit_scale(values, left, RIGHT - max(over, 0.0), log=True)


def _gate_heads(gates: Sequence[tuple[float, str]]) -> list[tuple[float, str, int]]:
    """x, text and line of each gate's label, from left to right: under all labels that its own line would cut.

    Args:
        gates: x and text, by x.
    """
    found: list[tuple[float, str, int]] = []
    for x, said in gates:
        above = [line for other, text_, line in found if x < other + 10 + text_width(text_, TICK)]
        found.append((x, said, max(above, default=-1) + 1))
    return found


def _value(figure: Any) -> float:
    value = figures.value_of(figure)
    assert value is not None
    return value


def _extent(figure: Any) -> list[float]:
    return [_value(figure), *(figures.bounds(figure) or ())]
