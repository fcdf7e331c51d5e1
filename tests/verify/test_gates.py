"""Gates hold the files that ship; a missing figure or a crash never passes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.quantize.schemes import ALL, PLAIN_SUFFIX, Scheme
from distill2edge.recipe.limits import KlLimits
from distill2edge.recipe.schema import Verify
from distill2edge.verify.gates import Gate, apply_gates, verdict
from distill2edge.verify.trivial_baselines import TrivialBaseline
from distill2edge.verify.warnings import warnings_of


def _figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value, "n": 10}


def _model(name: str, role: str = "student", scheme: str = "gguf:Q4_0", **figures: Any) -> dict[str, Any]:
    keys = ("retained", "kl_student", "top1_student", "output_length_ratio", "error")
    return {"id": name, "role": role, "scheme": scheme, **dict.fromkeys(keys), **figures}


TEACHER = _model("teacher", "teacher", "torch:fp32")
STUDENT = _model("student", scheme="torch:fp32", retained=_figure(0.99))


def _failed(models: list[dict[str, Any]], **section: float) -> set[tuple[str, str]]:
    gates = apply_gates(models, Verify(**section))
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
    assert verdict(apply_gates([TEACHER, STUDENT, crashed], Verify())) == "fail"
    assert _failed([{**TEACHER, "error": "no"}, STUDENT]) == {("teacher", "loads")}


def test_the_teachers_own_files_are_reported_and_not_held() -> None:
    teachers_own = [
        _model("control", "control", "torch:fp32", retained=_figure(0.5)),
        _model("teacher/gguf:Q4_0", "teacher", retained=_figure(0.5), error=None),
        _model("teacher/gguf:Q2_K", "teacher", error="crashed"),
        _model("student/gguf:Q4_0-plain", scheme="gguf:Q4_0-plain", retained=_figure(0.5), kl_student=_figure(0.9)),
    ]
    good = _model("student/gguf:Q8_0", retained=_figure(0.98), kl_student=_figure(0.01))
    assert not _failed([TEACHER, STUDENT, *teachers_own, good], min_retained=0.95, max_kl=0.05)


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


# --- limits that hold without being asked for -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "limit"),
    [
        *[(f"onnx:{name}", 1e-3) for name in ("fp32", "fp16")],
        *[(f"gguf:{name}", 1e-3) for name in ("F32", "F16", "BF16")],
        *[(name, 0.05) for name in ("onnx:int8", "onnx:int8-dynamic", "gguf:Q8_0")],
        *[(name, None) for name in ("onnx:int4-b32", "gguf:Q6_K", "gguf:Q4_0", "gguf:mix-90MB", "onnx:mix-kl0.05")],
    ],
)
def test_a_recipe_that_says_nothing_holds_files_by_their_precision(scheme: str, limit: float | None) -> None:
    def gate_of(kl: float) -> list[Gate]:
        file = _model(f"student/{scheme}", scheme=scheme, kl_student=_figure(kl))
        return [gate for gate in apply_gates([TEACHER, STUDENT, file], Verify()) if gate.name == "max_kl"]

    if limit is None:
        assert gate_of(1.6) == []
        return
    (far,), (near,) = gate_of(limit * 1.01), gate_of(limit * 0.99)
    assert (far.target, far.passed, far.default) == (limit, False, True)
    assert near.passed


def test_every_scheme_has_a_precision() -> None:
    for scheme in ALL:
        assert scheme.precision in KlLimits.model_fields
        assert Scheme(scheme.format, scheme.name + PLAIN_SUFFIX).precision == scheme.precision


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        (0.1, (1e-3, 0.1, 0.1)),  # what is lossless is no further away because others may be
        (1e-5, (1e-5, 1e-5, 1e-5)),
        (None, (None, None, None)),
        ({"lossless": 0.01}, (0.01, 0.05, None)),
        ({"eight_bits": None, "lower": 0.3}, (1e-3, None, 0.3)),
    ],
)
def test_a_recipe_changes_the_limits(given: Any, limits: tuple[float | None, ...]) -> None:
    section = Verify(max_kl=given)
    assert (section.max_kl.lossless, section.max_kl.eight_bits, section.max_kl.lower) == limits
    assert Verify.model_validate(section.model_dump()) == section


@pytest.mark.parametrize("given", [0, -1, float("inf"), float("nan"), "0.1", True, {"lossles": 1}])
def test_what_is_no_limit_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="max_kl"):
        Verify(max_kl=given)


NOTHING = TrivialBaseline("always 'a', the largest class", [1.0, 0.0], 0.5, (("a", 10), ("b", 10)))


def _warned(
    models: list[dict[str, Any]], verify: Verify, baseline: TrivialBaseline = NOTHING, rows: int = 20
) -> list[str]:
    return [warning["text"] for warning in warnings_of(models, verify, baseline, rows, "token")]


def test_gates_that_are_off_and_files_far_away_are_told() -> None:
    far = _model("student/gguf:Q2_K", scheme="gguf:Q2_K", kl_student=_figure(0.51))
    near = _model("student/gguf:Q4_0", scheme="gguf:Q4_0", kl_student=_figure(0.49))
    exact = _model("student/gguf:F16", scheme="gguf:F16", kl_student=_figure(1e-6))
    assert _warned([TEACHER, STUDENT, near, exact], Verify()) == []
    assert _warned([TEACHER, STUDENT, near, far, exact], Verify()) == [
        "student/gguf:Q2_K is 0.51 nats per token from its student, and no gate limits it"
    ]
    assert _warned([TEACHER, STUDENT, far], Verify(max_kl=0.3)) == []  # a failed gate says it
    (said,) = _warned([TEACHER, STUDENT, near, exact], Verify(max_kl=None))
    assert "null for lossless files" in said
