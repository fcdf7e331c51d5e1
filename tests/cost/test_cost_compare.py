"""Which cells stand for teacher and student, and how much of a saving is the model's."""

from __future__ import annotations

from typing import Any

import pytest
import report_fixtures as made
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.cost.saving import split
from distill2edge.cost.teacher_baselines import is_teacher_baseline, quality_floor
from distill2edge.report import claims, cost_words
from distill2edge.report.document import build_report

Document = dict[str, Any]


def document(*, quantized: bool, larger: bool = False) -> Document:
    """A passing report; `larger` makes the student five times its teacher and, like for like, slower."""
    verify = made.passing_verify(teacher_schemes=quantized)
    bench = made.bench(verify["models"], broken=False)
    if larger:
        for model in verify["models"]:
            model["parameters"] *= 5 if model["role"] == "student" else 1
        for cell in bench["cells"]:
            if cell["model"] in ("student", "student/gguf:Q8_0"):
                teacher = "teacher" if cell["model"] == "student" else "teacher/gguf:Q8_0"
                rate = next((c for c in bench["cells"] if c["model"] == teacher), bench["cells"][0])
                base = rate["workloads"]["task"]["requests_per_s"]["value"]
                factor = 0.5 if cell["model"] == "student" or quantized else 3.0
                cell["workloads"]["task"]["requests_per_s"] = made.figure(base * factor, 0.01)
    cost = made.cost(bench, verify)
    return build_report(
        made.run(), made.data(), made.teacher(), {}, made.train(), made.merge(), made.exports(verify["models"]), verify,
        bench, cost,
    )  # fmt: skip


def test_a_teacher_in_pytorch_alone_is_compared_in_pytorch() -> None:
    report = document(quantized=False)
    comparison = report["cost"]["comparison"]
    assert (comparison["teacher"], comparison["student"]) == ("teacher@cpu", "student@cpu")
    assert comparison["student_runtime"] == comparison["teacher_runtime"] == "PyTorch"
    assert comparison["saving"] == pytest.approx(1 - 380 / 655)
    assert comparison["shipped"]["cell"] == report["headline"]["cell"] == "student/gguf:Q4_K_M@cpu"
    parts = comparison["shipped"]["split"]
    assert (parts["model"], parts["rest"]) == (pytest.approx(655 / 380), pytest.approx(380 / 188))
    notes = " ".join(report["cost"]["notes"])
    assert "verify.teacher_schemes: [gguf:Q4_K_M]" in notes
    said = " ".join(cost_words.cost_sentences(report))
    assert "in PyTorch, where both were measured" in said
    assert "The cost ratio of 3.48x is 1.72x from the student's model" in said
    assert "runtime that both have" in " ".join(beside for _, _, beside in claims.tiles(report))


def test_a_teacher_measured_in_the_students_runtime_meets_the_file_that_ships() -> None:
    comparison = document(quantized=True)["cost"]["comparison"]
    assert (comparison["teacher"], comparison["student"]) == ("teacher/gguf:Q8_0@cpu", "student/gguf:Q4_K_M@cpu")
    assert comparison["shipped"]["cell"] == comparison["student"]
    parts = comparison["split"]
    assert (parts["cell"], parts["same"]) == ("student/gguf:Q8_0@cpu", "scheme")
    assert parts["model"] * parts["rest"] == pytest.approx(402 / 188)


def test_a_larger_student_is_not_cheaper_by_its_model_and_the_report_says_so() -> None:
    alone = document(quantized=False, larger=True)
    assert alone["cost"]["comparison"]["saving"] == pytest.approx(-1.0)  # in PyTorch, twice the teacher's cost
    assert [name for name, *_ in claims.tiles(alone)][-2] == "Cost added"
    assert "costs 100.0% more per request" in claims.lead(alone)
    alone["headline"] |= {"size_ratio": 0.25}
    alone["headline"]["speedup"] |= {"ratio": {"value": 0.8}, "time_saved": {"value": -0.25}}
    beside = {name: text for name, _, text in claims.tiles(alone)}
    assert beside["Size"].startswith("4.00x larger than ")
    assert beside["Speed-up"].startswith("25% more time, ")
    assert "only another runtime" not in claims.lead(alone)
    other = document(quantized=True, larger=True)
    assert other["cost"]["comparison"]["saving"] > 0  # its 4-bit file against the teacher's 8-bit file
    assert "only another runtime or quantization of its file makes it cheaper" in claims.lead(other)
    assert "its runtime or quantization makes it so, not the model" in " ".join(cost_words.cost_sentences(other))


def test_a_gate_above_the_teacher_does_not_bar_the_teachers_own_faithful_file() -> None:
    gates = [{"name": "min_retained", "op": ">=", "target": 1.2}]
    floor = quality_floor(gates)

    def entry(retained: float) -> Document:
        return {"id": "teacher/gguf:Q8_0", "role": "teacher", "error": None, "retained": {"value": retained}}

    assert is_teacher_baseline(entry(0.998), floor)
    assert not is_teacher_baseline(entry(0.91), floor)
    assert is_teacher_baseline(entry(0.91), 0.9)
    assert not is_teacher_baseline({**entry(1.0), "error": "crashed"}, floor)


@given(st.lists(st.floats(0.01, 100), min_size=3, max_size=3))
def test_the_parts_of_a_split_multiply_to_the_whole(costs: list[float]) -> None:
    names = ("teacher/gguf:Q8_0", "student/gguf:Q8_0", "student/onnx:int8")
    teacher, like, chosen = (
        {"cell": name, "model": name, "at_utilisation": cost} for name, cost in zip(names, costs, strict=True)
    )
    parts = split(teacher, [like, chosen], chosen)
    assert parts is not None
    assert parts["model"] * parts["rest"] == pytest.approx(costs[0] / costs[2])
    assert split(teacher, [chosen], chosen) is None
