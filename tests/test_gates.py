"""Gates hold the files that ship; a missing figure or a crash never passes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.recipe.schema import Verify
from distill2edge.verify.gates import Gate, judge, verdict


def _figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value, "n": 10}


def _model(name: str, role: str = "student", scheme: str = "gguf:Q4_0", **figures: Any) -> dict[str, Any]:
    keys = ("retained", "kl_student", "top1_student", "output_length_ratio", "error")
    return {"id": name, "role": role, "scheme": scheme, **dict.fromkeys(keys), **figures}


TEACHER = _model("teacher", "teacher", "torch:fp32")
STUDENT = _model("student", scheme="torch:fp32", retained=_figure(0.99))


def _failed(models: list[dict[str, Any]], **section: float) -> set[tuple[str, str]]:
    gates = judge(models, Verify(**section))
    return {(gate.model, gate.name) for gate in gates if not gate.passed}


def test_each_gate_fails_the_file_that_misses_it_and_no_other() -> None:
    good = _model("student/gguf:Q8_0", retained=_figure(0.98), kl_student=_figure(0.01), top1_student=_figure(0.97))
    poor = _model("student/gguf:Q4_0", retained=_figure(0.9), kl_student=_figure(0.5), top1_student=_figure(0.6))
    models = [TEACHER, STUDENT, good, poor]
    assert _failed(models, min_retained=0.95) == {("student/gguf:Q4_0", "min_retained")}
    assert _failed(models, max_kl=0.05) == {("student/gguf:Q4_0", "max_kl")}
    assert _failed(models, min_top1=0.9) == {("student/gguf:Q4_0", "min_top1")}
    assert not _failed(models)


def test_a_crash_fails_whatever_the_recipe_asks() -> None:
    crashed = _model("student/gguf:Q4_0", error="the process was killed by SIGABRT")
    assert _failed([TEACHER, STUDENT, crashed]) == {("student/gguf:Q4_0", "loads")}
    assert verdict(judge([TEACHER, STUDENT, crashed], Verify())) == "fail"
    assert _failed([{**TEACHER, "error": "no"}, STUDENT]) == {("teacher", "loads")}


def test_rivals_are_reported_and_not_held() -> None:
    rivals = [
        _model("control", "control", "torch:fp32", retained=_figure(0.5)),
        _model("teacher/gguf:Q4_0", "teacher", retained=_figure(0.5), error=None),
        _model("teacher/gguf:Q2_K", "teacher", error="crashed"),
        _model("student/gguf:Q4_0-plain", scheme="gguf:Q4_0-plain", retained=_figure(0.5), kl_student=_figure(0.9)),
    ]
    good = _model("student/gguf:Q8_0", retained=_figure(0.98), kl_student=_figure(0.01))
    assert not _failed([TEACHER, STUDENT, *rivals, good], min_retained=0.95, max_kl=0.05)


def test_without_files_the_dense_student_is_held() -> None:
    assert _failed([TEACHER, {**STUDENT, "retained": _figure(0.5)}], min_retained=0.9) == {("student", "min_retained")}


@pytest.mark.parametrize(("ratio", "name"), [(0.5, "min_length"), (1.5, "max_length")])
def test_answers_of_another_length_fail_a_retained_score(ratio: float, name: str) -> None:
    file = _model("student/gguf:Q8_0", retained=_figure(1.0), output_length_ratio=_figure(ratio))
    assert _failed([TEACHER, STUDENT, file], min_retained=0.95) == {("student/gguf:Q8_0", name)}
    assert not _failed([TEACHER, STUDENT, file])


def test_a_figure_that_could_not_be_measured_does_not_pass() -> None:
    file = _model("student/gguf:Q8_0", retained=_figure(1.0))
    assert _failed([TEACHER, STUDENT, file], max_kl=0.1) == {("student/gguf:Q8_0", "max_kl")}
    assert not Gate("max_kl", "x", "<=", 1.0, float("nan")).passed


@given(st.floats(0, 2), st.floats(0, 2))
def test_a_gate_is_its_comparison(value: float, target: float) -> None:
    assert Gate("a", "m", ">=", target, value).passed == (value >= target)
    assert Gate("a", "m", "<=", target, value).passed == (value <= target)
