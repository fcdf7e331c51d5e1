"""The charts of the page. Each returns None where there is nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from distill2edge.report import text
from distill2edge.report.svg import (
    CHARACTER,
    HEIGHT,
    WIDTH,
    Box,
    Drawing,
    Scale,
    draw_labels,
    fit_scale,
    place_labels,
)

Document = dict[str, Any]
LEFT, RIGHT, TOP, BOTTOM = 58.0, WIDTH - 14, 28.0, HEIGHT - 46
_LONGEST = 34
"""Characters of a label in a chart; the mark's title has the whole name."""
_GROWTH = 60.0
"""By which a chart is made higher until every label has a place."""


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
    height: float = HEIGHT,
) -> Markup | None:
    """Quality against latency or size; the frontier is drawn, intervals are thin lines.

    Args:
        levels: name and score of what needs no model, a line across.
        height: at least; a chart grows until every label has a place.
    """
    if not points:
        return None
    bottom = height - (HEIGHT - BOTTOM)
    xs = [value for point in points for value in _extent(point["x"])]
    ys = [value for point in points for value in _extent(point["y"])] + [value for _, value in levels]
    x_scale, y_scale = fit_scale(xs, LEFT, RIGHT), fit_scale(ys, bottom, TOP, log=False, pad=0.1)
    name = text.metric(metric["name"])
    better = "" if metric["higher_is_better"] else " (lower is better)"
    drawing = Drawing(f"{name} against {x_title}, {len(points)} points", height=height)
    drawing.x_axis(x_scale, bottom, TOP, text.tick, x_title)
    drawing.y_axis(y_scale, LEFT, RIGHT, text.tick, name + better)
    for _, value in levels:
        drawing.line(LEFT, y_scale(value), RIGHT, y_scale(value), "level")

    at = [(x_scale(_value(point["x"])), y_scale(_value(point["y"])), point) for point in points]
    _frontier(drawing, at)
    for x, y, point in at:
        for low, high in filter(None, [text.bounds(point["y"])]):
            drawing.line(x, y_scale(low), x, y_scale(high), f"whisker {role_of(point)}")
        for low, high in filter(None, [text.bounds(point["x"])]):
            drawing.line(x_scale(low), y, x_scale(high), y, f"whisker {role_of(point)}")
    for x, y, point in at:
        verdict = {True: ", gates passed", False: ", gates failed", None: ""}[point.get("passed")]
        title = (
            f"{point['id']}: {name} {text.interval(point['y'])}, "
            f"{text.number(_value(point['x']))} {x_unit}{verdict}{', on the frontier' if point['frontier'] else ''}"
        )
        drawing.marker(x, y, role_of(point), title, hollow=point.get("passed") is False)
    order = sorted(at, key=lambda spot: not spot[2]["frontier"])
    spots = [(x, y, short_name(str(point["id"]))) for x, y, point in order]
    spots += [(LEFT + 8, y_scale(value), level[:_LONGEST]) for level, value in levels]
    placed = place_labels(spots, Box(LEFT + 2, TOP - 6, RIGHT + 10, bottom - 2))
    found = [label for label in placed if label is not None]
    if len(found) < len(spots):
        return pareto_chart(
            points, metric, x_title=x_title, x_unit=x_unit, levels=levels, height=height + _GROWTH
        )  # fmt: skip
    draw_labels(drawing, spots, found, "label")
    return drawing.render()


def _frontier(drawing: Drawing, at: Sequence[tuple[float, float, Document]]) -> None:
    edge: list[tuple[float, float]] = []
    for x, y, point in at:
        if point["frontier"]:
            edge += [(x, edge[-1][1])] if edge else []
            edge.append((x, y))
    drawing.path(edge, "frontier", "Pareto frontier: nothing here is both better and smaller or faster")


def kl_of(model: Document) -> Any:
    """KL of a file from the model it was made of: the merged student, or the teacher."""
    return model.get("kl_teacher" if model.get("role") == "teacher" else "kl_student")


def kl_chart(models: list[Document], gates: list[Document], unit: str = "token") -> Markup | None:
    """Mean KL of each file from the model it was made of, with its interval and the gates; nats per `unit`."""
    rows = [
        model
        for model in models
        if not model.get("error") and (text.value_of(kl_of(model)) or 0) > 0 and "/" in str(model["id"])
    ]
    if not rows:
        return None
    rows = sorted(rows, key=lambda model: _value(kl_of(model)))
    limits = sorted({float(gate["target"]) for gate in gates if "kl" in str(gate.get("name"))})
    labels = [("teacher " if role_of(model) == "teacher" else "") + short_name(str(model["id"])) for model in rows]
    left = min(max(len(label) for label in labels) * CHARACTER + 20, WIDTH * 0.45)
    room = int((left - 16) / CHARACTER)
    labels = [label if len(label) <= room else f"{label[: room - 3]}..." for label in labels]
    values = [v for model in rows for v in _extent(kl_of(model)) if v > 0] + limits
    scale = fit_scale(values, left, RIGHT, log=True)
    heads = _gate_heads([(scale(limit), f"gate {text.tick(limit)}") for limit in limits])
    top = 16.0 + 15 * max((line for *_, line in heads), default=0)
    height = top + 14 + 27.0 * len(rows) + 46
    drawing = Drawing("Mean KL divergence of each file", height=height)
    drawing.x_axis(scale, height - 46, top + 6, text.tick, f"nats per {unit}, logarithmic (less is closer)")
    for x, anchor, said, line in heads:
        drawing.line(x, 16 + 15 * line, x, height - 46, "gate")
        drawing.text(x + (-4 if anchor == "end" else 4), 14 + 15.0 * line, said, "gate-label", anchor)
    for index, (model, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + 22 + 27.0 * index
        value = _value(kl_of(model))
        drawing.text(left - 12, y + 4, label, "label", "end")
        interval = text.bounds(kl_of(model))
        if interval is not None:
            low = max(interval[0], scale.low)
            drawing.line(scale(low), y, scale(max(interval[1], low)), y, f"whisker {role_of(model)}")
        title = (
            f"{model['id']}: KL {text.interval(kl_of(model))} nats per {unit}, "
            f"p99 {text.number(model.get('kl_student_p99'))}"
        )
        drawing.marker(scale(value), y, role_of(model), title, hollow=model.get("passed") is False)
    return drawing.render()


def _gate_heads(gates: Sequence[tuple[float, str]]) -> list[tuple[float, str, str, int]]:
    """x, anchor, text and line of each gate's label: the first line on which it meets no other."""
    ends: list[list[tuple[float, float]]] = []
    found = []
    for x, said in gates:
        wide = len(said) * CHARACTER + 8
        anchor, begin = ("end", x - wide) if x + wide > RIGHT else ("start", x)
        line = 0
        while line < len(ends) and any(begin < right and left < begin + wide for left, right in ends[line]):
            line += 1
        if line == len(ends):
            ends.append([])
        ends[line].append((begin, begin + wide))
        found.append((x, anchor, said, line))
    return found


def cost_chart(cost: Document) -> Markup | None:
    """US dollars for 1,000 requests by utilisation; the compared pair is bold."""
    cells = [cell for cell in cost.get("cells", []) if cell.get("cost_per_1000")]
    if not cells:
        return None
    names = list(cells[0]["cost_per_1000"])
    comparison = cost.get("comparison") or {}
    pair = {(comparison.get("teacher"), comparison.get("teacher_place")),
            (comparison.get("student"), comparison.get("student_place"))}  # fmt: skip
    values = [v for cell in cells for v in cell["cost_per_1000"].values() if v > 0]
    y_scale = fit_scale(values, BOTTOM, TOP, log=True)
    x_scale = fit_scale([float(name) for name in names], LEFT, RIGHT - 10, log=True, pad=0.04)
    drawing = Drawing("Cost of 1,000 requests by utilisation")
    drawing.y_axis(y_scale, LEFT, RIGHT, text.usd_tick, "US dollars per 1,000 requests (logarithmic)")
    for name in names:
        x = x_scale(float(name))
        drawing.line(x, TOP, x, BOTTOM, "grid")
        drawing.text(x, BOTTOM + 17, f"{float(name):.0%}", "tick", "middle")
    drawing.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")
    drawing.text((LEFT + RIGHT) / 2, BOTTOM + 36, "share of the time the machine is busy", "axis-title", "middle")
    ordered = sorted(cells, key=lambda cell: (cell["cell"], cell["place"]) in pair)
    for cell in ordered:
        bold = (cell["cell"], cell["place"]) in pair
        role = str(cell["model"]).split("/")[0]
        line = [(x_scale(float(name)), y_scale(max(cell["cost_per_1000"][name], y_scale.low))) for name in names]
        title = f"{cell['cell']} on {cell['label']}"
        drawing.path(line, f"series {role}{' bold' if bold else ''}", title)
        for (x, y), name in zip(line, names, strict=True):
            if bold:
                drawing.marker(
                    x, y, role, f"{title}: {text.usd(cell['cost_per_1000'][name])} at {float(name):.0%} busy"
                )
    spots = [
        (x_scale(float(names[0])), y_scale(cell["cost_per_1000"][names[0]]), _who(cell["cell"], cell["label"]))
        for cell in ordered
        if (cell["cell"], cell["place"]) in pair
    ]
    placed = [label for label in place_labels(spots, Box(LEFT, TOP - 4, RIGHT, BOTTOM)) if label is not None]
    draw_labels(drawing, spots, placed, "label strong")
    return drawing.render()


def _who(cell: str, place: str) -> str:
    role = cell.split("/")[0].split("@")[0].split(":")[0]
    return f"{'teacher' if role == 'api' else role}, {place}"[:44]


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
    x_scale, y_scale = Scale(0, last, LEFT, RIGHT), Scale(0, top * 1.06, BOTTOM, TOP)
    drawing = Drawing("Money spent against requests served")
    drawing.x_axis(x_scale, BOTTOM, TOP, text.count, "requests served")
    drawing.y_axis(y_scale, LEFT, RIGHT, text.usd_tick, "US dollars spent")
    lines = {"teacher": (0.0, last * teacher), "student": (one_off, one_off + last * student)}
    if meet:
        x, y = x_scale(meet), y_scale(meet * teacher)
        ends = [y_scale(lines[role][1]) for role in ("teacher", "student")]
        drawing.add(
            "polygon", points=f"{x:.1f},{y:.1f} {RIGHT:.1f},{ends[0]:.1f} {RIGHT:.1f},{ends[1]:.1f}", class_="saved"
        )
    for role, (first, end) in lines.items():
        drawing.path([(LEFT, y_scale(first)), (RIGHT, y_scale(end))], f"series {role} bold", f"{role}: {text.usd(end)}")
        above = (role == "teacher") == (lines["teacher"][1] >= lines["student"][1])
        drawing.text(RIGHT - 6, y_scale(end) + (-8 if above else 18), role, "label strong", "end")
    if meet:
        drawing.line(x, y, x, BOTTOM, "gate")
        drawing.marker(x, y, "student", f"break-even after {text.count(meet)} requests")
        drawing.text(x - 10, y - 10, f"{text.count(meet)} requests", "label strong", "end")
    return drawing.render()


def training_chart(training: Document) -> Markup | None:
    """Loss by step of the student, of the control where there is one, and what was measured on validation rows."""
    curves: list[tuple[str, str, list[tuple[float, float]]]] = []
    for role in ("control", "student"):
        record = training.get(role) or {}
        curves.append((role, "training", _curve(record.get("log"), ("loss",))))
        curves.append((role, "validation", _curve(record.get("eval"), ("loss", "eval_loss"))))
    curves = [curve for curve in curves if curve[2]]
    if not curves or sum(len(points) for _, _, points in curves) < 2:
        return None
    x_scale = fit_scale([x for _, _, points in curves for x, _ in points], LEFT, RIGHT, log=False, pad=0.02)
    y_scale = fit_scale([y for _, _, points in curves for _, y in points], BOTTOM, TOP, log=None)
    drawing = Drawing("Loss by training step")
    drawing.x_axis(x_scale, BOTTOM, TOP, text.count, "optimizer step")
    drawing.y_axis(y_scale, LEFT, RIGHT, text.tick, "loss" + (" (logarithmic)" if y_scale.log else ""))
    for role, kind, points in curves:
        line = [(x_scale(x), y_scale(y)) for x, y in points]
        drawing.path(line, f"series {role} bold{' dashed' if kind == 'validation' else ''}", f"{role}, {kind} loss")
        if kind == "validation":
            for (x, y), (step, loss) in zip(line, points, strict=True):
                drawing.marker(x, y, role, f"{role}, step {step:g}: validation loss {text.number(loss)}")
    return drawing.render()


def _curve(rows: Any, keys: tuple[str, ...]) -> list[tuple[float, float]]:
    if not isinstance(rows, list):
        return []
    found = []
    for row in rows:
        loss = next((text.value_of(row.get(key)) for key in keys if text.value_of(row.get(key)) is not None), None)
        step = text.value_of(row.get("step"))
        if loss is not None and step is not None:
            found.append((step, loss))
    return found


def _value(figure: Any) -> float:
    value = text.value_of(figure)
    assert value is not None
    return value


def _extent(figure: Any) -> list[float]:
    return [_value(figure), *(text.bounds(figure) or ())]
