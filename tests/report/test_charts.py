"""Charts that can be read whatever they show: no text lies on another, on a line or on a mark; no text is cut."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import report_fixtures as made
from chart_geometry import Chart
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from distill2edge.report import charts, curves
from distill2edge.report.label_places import Box, label_box, place_labels
from distill2edge.report.sections import rounds_section
from distill2edge.report.svg import WIDTH, Key, legend_lines, text_width

Document = dict[str, Any]
EXAMPLES = settings(max_examples=25, phases=[Phase.explicit, Phase.reuse, Phase.generate])
ACCURACY = {"name": "accuracy", "higher_is_better": True}
SCHEMES = [
    "gguf:Q4_0",
    "gguf:Q4_K_M",
    "onnx:int8-dynamic",
    "gguf:mix-9050000B-untrained",
    "onnx:int4-b32",
    "gguf:WWWWM",
]
share = st.floats(0.0, 1.0)
money = st.floats(1e-7, 1e5)


def point(n: int, x: float, y: float, spread: float, role: str = "student") -> Document:
    name = f"{role}/{SCHEMES[n % len(SCHEMES)]}"
    return {
        "id": name,
        "role": role,
        "frontier": n % 5 == 0,
        "passed": None,
        "x": {"value": x, "low": x * (1 - spread), "high": x * (1 + spread)},
        "y": {"value": y, "low": max(y - spread / 4, 0), "high": min(y + spread / 4, 1)},
    }


@EXAMPLES
@given(
    st.lists(st.tuples(st.floats(1, 1000), share), min_size=1, max_size=30),
    st.sampled_from([1.0, 0.05, 0.0]),
    st.floats(0, 0.2),
    st.lists(share, max_size=2),
)
def test_quality_against_size(
    drawn: list[tuple[float, float]], wide: float, spread: float, levels: list[float]
) -> None:
    points = sorted(
        (point(n, 100 + wide * x, 0.85 + 0.1 * wide * (y - 0.5), spread) for n, (x, y) in enumerate(drawn)),
        key=lambda one: one["x"]["value"],
    )
    named = list(zip(["always 'pos'", "chance"], levels, strict=False))
    svg = charts.pareto_chart(points, ACCURACY, x_title="megabytes on disk", x_unit="MB", levels=named)
    chart = Chart(svg)
    assert chart.faults() == []
    labels = [text for text in chart.texts if text.kind == "label"]
    said = [text.said for text in chart.texts if text.said.startswith("No room for")]
    assert len(labels) + sum(int(text.split()[3]) for text in said) == len(points) + len(named)


def test_marks_with_room_have_their_names() -> None:
    points = [point(n, 20.0 * 1.6**n, 0.6 + 0.05 * (n % 4), 0.01) for n in range(8)]
    chart = Chart(charts.pareto_chart(points, ACCURACY, x_title="MB", x_unit="MB", levels=[("chance", 0.5)]))
    assert len([text for text in chart.texts if text.kind == "label"]) == 9
    assert not any(text.said.startswith("No room") for text in chart.texts)


@EXAMPLES
@given(
    st.lists(st.tuples(st.floats(1e-12, 10), share), min_size=1, max_size=30),
    st.lists(st.sampled_from([0.001, 0.05, 0.052, 0.06, 0.5, 5.0]), max_size=5),
)
def test_divergence_of_each_file(drawn: list[tuple[float, float]], limits: list[float]) -> None:
    models = [
        {"id": f"student/{SCHEMES[n % 6]}", "role": "student", "kl_student": made.figure(kl, kl * spread)}
        for n, (kl, spread) in enumerate(drawn)
    ]
    gates = [{"name": "max_kl", "target": limit} for limit in limits]
    assert Chart(charts.kl_chart(models, gates, "text")).faults() == []


@EXAMPLES
@given(
    st.lists(st.tuples(money, st.sampled_from(["teacher", "student"])), min_size=1, max_size=12),
    st.booleans(),
    st.sampled_from(
        ["AWS EC2 m6i.large", "Raspberry Pi 5, 8 GB", "A box with a very long name, eu-central-1, reserved"]
    ),
)
def test_cost_by_utilisation(drawn: list[tuple[float, str]], compared: bool, label: str) -> None:
    cells = [
        {"cell": f"{role}/gguf:Q4_K_M-{n}@cpu", "model": f"{role}/gguf:Q4_K_M-{n}", "place": "box", "label": label,
         "cost_per_1000": {u: usd / float(u) for u in ("0.05", "0.2", "0.5", "1.0")}}
        for n, (usd, role) in enumerate(drawn)
    ]  # fmt: skip
    pair = {}
    for role in ("teacher", "student") if compared else ():
        pair |= {role: next((c["cell"] for c in cells if c["model"].startswith(role)), None), f"{role}_place": "box"}
    chart = Chart(curves.cost_chart({"cells": cells, "comparison": pair or None}))
    assert chart.faults() == []
    said = " ".join(text.said for text in chart.texts if text.kind == "label")
    for role in {role for _, role in drawn}:
        assert role in said  # every line has a name in the legend


@EXAMPLES
@given(money, st.floats(0.01, 0.99), money)
def test_break_even(teacher: float, part: float, one_off: float) -> None:
    meet = one_off / (teacher * (1 - part) / 1000)
    cost = {"comparison": {"teacher_per_1000": teacher, "student_per_1000": teacher * part,
                           "break_even_requests": meet}, "one_off": {"total_usd": one_off}}  # fmt: skip
    chart = Chart(curves.break_even_chart(cost))
    assert chart.faults() == []
    assert [text.said for text in chart.texts if text.kind == "label"][:2] == ["teacher", "student"]
    assert any(text.said.startswith("break-even after") for text in chart.texts)


losses = st.lists(st.floats(1e-6, 1e4), min_size=2, max_size=30)


@EXAMPLES
@given(losses, losses, losses, st.sampled_from(["training loss", "cross-entropy", None]), st.booleans())
def test_losses(student: list[float], control: list[float], held: list[float], validation: Any, distils: bool) -> None:
    def log(values: list[float]) -> list[Document]:
        return [{"step": 10 * n, "loss": loss} for n, loss in enumerate(values, 1)]

    weights = {"ce": 0.5, "forward_kl": 0.5, "hidden": 0.0, "hidden_kind": "cosine"} if distils else {"ce": 1.0}
    report = {
        "training": {
            "student": {"log": log(student), "eval": log(held), "eval_loss": validation},
            "control": {"log": log(control), "eval": log(held), "eval_loss": "training loss"},
        },
        "reproduce": {"recipe": {"distill": {"loss": weights}}},
    }
    drawn = curves.training_charts(report)
    keys = {title: [t.said for t in Chart(svg).texts if t.kind == "label"] for title, svg in drawn}
    for _, svg in drawn:
        assert Chart(svg).faults() == []
    both = ["control, training", "control, validation"]
    if not distils:  # one quantity, one axis
        assert keys == {"Loss: cross-entropy": ["student, training", "student, validation", *both]}
    elif validation == "cross-entropy":
        mixed = "Loss: 0.5 cross-entropy + 0.5 forward KL"
        assert keys == {mixed: ["student, training"], "Loss: cross-entropy": ["student, validation", *both]}
    else:
        mixed = "Loss: 0.5 cross-entropy + 0.5 forward KL"
        assert keys == {mixed: ["student, training", "student, validation"], "Loss: cross-entropy": both}


@EXAMPLES
@given(st.lists(st.tuples(share, share, share), min_size=1, max_size=6), st.floats(0, 0.3))
def test_rounds(scores: list[tuple[float, float, float]], spread: float) -> None:
    arms = {
        arm: [{"round": n, "score": made.figure(row[index], spread)} for n, row in enumerate(scores)]
        for index, arm in enumerate(("verified", "unverified", "no self-training"))
    }
    if len(scores) == 1:
        arms = {arm: [*items, {**items[0], "round": 1}] for arm, items in arms.items()}
    chart = Chart(rounds_section.rounds_chart({"metric": "exact_match", "rows": 9, "arms": arms}))
    assert chart.faults() == []
    assert [text.said for text in chart.texts if text.kind == "label"] == ["verified", "unverified", "no self-training"]


@EXAMPLES
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=50), max_size=8))
def test_a_legend_breaks_its_lines(names: list[str]) -> None:
    lines = legend_lines([Key(name) for name in names])
    assert [key.text for line in lines for _, key in line] == names
    for line in lines:
        for (x, key), (right, _) in pairwise(line):
            assert x + 30 + text_width(key.text) < right
        x, key = line[-1]
        assert len(line) == 1 or x + 30 + text_width(key.text) <= WIDTH


spots = st.lists(st.tuples(st.floats(20, 380), st.floats(20, 280)), min_size=1, max_size=15)


@EXAMPLES
@given(spots, spots)
def test_labels_cover_neither_each_other_nor_a_line(
    marks: list[tuple[float, float]], ends: list[tuple[float, float]]
) -> None:
    lines = [(*a, *b) for a, b in pairwise(ends)]
    placed = place_labels([(x, y, "gguf Q4_0") for x, y in marks], Box(0, 0, 400, 300), lines)
    boxes = [label_box(label) for label in placed if label is not None]
    for index, box in enumerate(boxes):
        assert not any(box.meets(other) for other in boxes[index + 1 :])
        assert not any(box.crossed(line) for line in lines)


@pytest.mark.parametrize(
    ("line", "crossed"),
    [((0, 0, 9, 9), True), ((0, 4, 20, 4), True), ((0, 2, 20, 2), False), ((5, 5, 5, 5), True), ((0, 9, 3, 20), False),
     ((4, 4, 5, 5), True), ((0, 0, 0, 20), False)],
)  # fmt: skip
def test_a_line_is_on_a_box(line: Any, crossed: bool) -> None:
    assert Box(2, 2, 8, 8).crossed(line) == crossed


def test_the_charts_of_a_real_report_can_be_read() -> None:
    report = made.report()
    drawn = [curves.cost_chart(report["cost"]), curves.break_even_chart(report["cost"]),
             charts.kl_chart(report["models"], report["gates"]),
             *[svg for _, svg in curves.training_charts(report)]]  # fmt: skip
    for points in (report["pareto"]["latency"], report["pareto"]["size"]):
        drawn.append(charts.pareto_chart(points, report["metric"], x_title="x", x_unit="u", levels=[("chance", 0.5)]))
    for svg in drawn:
        assert Chart(svg).faults() == []
