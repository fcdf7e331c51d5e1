"""Verify on tiny models: right figures, crashes told, resumed work, and scores checked against brute force."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distill2edge.data.examples import Encoded, example_id
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.recipe.schema import Verify
from distill2edge.util.isolate import Crash, run_worker
from distill2edge.util.progress import SilentProgress
from distill2edge.verify import fidelity, scores
from distill2edge.verify.token_models import verify_token_models
from tests.tiny import tiny_llama

STOP = 2
CRASH = str(Path(__file__).parents[1] / "crash")


def _row(prompt: Sequence[int], response: Sequence[int], label: int = -1) -> Encoded:
    ids = [*prompt, *response]
    mask = [False] * len(prompt) + [True] * len(response)
    return Encoded(example_id(ids, mask), ids, mask, label, f"row{prompt[0]}-{len(ids)}")


def _rows(count: int, response: int = 2) -> list[Encoded]:
    random = np.random.default_rng(0)
    return [
        _row([10 + n, *random.integers(3, 390, 6).tolist()], [*random.integers(3, 390, response - 1).tolist(), STOP])
        for n in range(count)
    ]


def _choices(rows: Sequence[Encoded]) -> Encodings:
    labelled = [_row(row.ids[:-2], [[50, 60][n % 2], STOP], n % 2) for n, row in enumerate(rows)]
    return Encodings(labelled, [[[50], [60]] for _ in labelled], "v", (STOP,))


def _file(path: Path, name: str, role: Any = "student", scheme: str = "onnx:int8") -> ModelFile:
    return ModelFile(name, role, scheme, "torch", path, 1000, 4000)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    tiny_llama(root / "teacher", seed=0)
    tiny_llama(root / "student", seed=1)
    shutil.copytree(root / "student", root / "same")
    shutil.copytree(root / "student", root / "abort-q4")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def verified(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run with a sound file, a crashing one and gates."""
    work = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", CRASH)
        facts = verify_token_models(
            [
                _file(models["teacher"], "teacher", "teacher", "torch:fp32"),
                _file(models["student"], "student", "student", "torch:fp32"),
                _file(models["same"], "student/onnx:int8"),
                _file(models["abort-q4"], "student/gguf:Q4_0", scheme="gguf:Q4_0"),
            ],
            {"teacher": _choices(_rows(30))},
            Verify(rows=24, max_tokens=40, max_kl=0.01),
            template="chat",
            seed=0,
            work=work,
            progress=SilentProgress(),
            threads=1,
        )
    return {"facts": facts, "work": work, "document": json.loads((work / "verify.json").read_text())}


def _entry(verified: dict[str, Any], name: str) -> dict[str, Any]:
    return next(model for model in verified["document"]["models"] if model["id"] == name)


def test_a_file_equal_to_its_student_has_no_divergence(verified: dict[str, Any]) -> None:
    same, student = _entry(verified, "student/onnx:int8"), _entry(verified, "student")
    assert same["kl_student"]["value"] == pytest.approx(0, abs=1e-9)
    assert same["top1_student"]["value"] == 1
    assert same["score"] == student["score"]
    assert same["kl_teacher"] == student["kl_teacher"]
    assert same["kl_teacher"]["value"] > 0.01
    assert same["kl_teacher"]["n"] == verified["document"]["tokens"] == 40
    assert student["kl_student"] is None
    assert _entry(verified, "teacher")["retained"] is None


def test_agreement_with_the_teacher_is_that_of_brute_force(verified: dict[str, Any], models: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    first = []
    for name in ("teacher", "student"):
        model = AutoModelForCausalLM.from_pretrained(models[name])
        tops: list[int] = []
        for row in _choices(_rows(30)).head(24).rows:
            with torch.inference_mode():
                logits = model(torch.tensor([row.ids])).logits[0]
            tops += [int(logits[t - 1].argmax()) for t in range(row.prompt_length, len(row.ids))]
        first.append(np.array(tops[:40]))
    share = float((first[0] == first[1]).mean())
    for name in ("student", "student/onnx:int8"):
        found = _entry(verified, name)["top1_teacher"]
        assert (found["value"], found["n"]) == (pytest.approx(share), 40)
        assert found["low"] <= share <= found["high"]
    assert _entry(verified, "teacher")["top1_teacher"] is None


def test_accuracy_is_that_of_brute_force(verified: dict[str, Any], models: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(models["teacher"])
    encodings = _choices(_rows(30)).head(24)
    right, nll = [], []
    for row in encodings.rows:
        with torch.inference_mode():
            logprob = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        begin = row.prompt_length
        right.append(float(logprob[begin - 1, [50, 60]].argmax() == row.label))
        nll += [-float(logprob[t - 1, row.ids[t]]) for t in range(begin, len(row.ids))]
    teacher = _entry(verified, "teacher")
    assert verified["document"]["metric"] == "accuracy"
    assert teacher["score"]["value"] == pytest.approx(np.mean(right))
    assert teacher["perplexity"]["value"] == pytest.approx(math.exp(np.mean(nll[:40])), rel=1e-4)
    assert teacher["output_length_ratio"] is None


def test_a_crash_is_a_failed_verdict_with_the_last_words(verified: dict[str, Any]) -> None:
    crashed = _entry(verified, "student/gguf:Q4_0")
    assert "SIGABRT" in crashed["error"]
    assert "GGML_ASSERT(n_dims == 64) failed" in crashed["error"]
    assert crashed["score"] is None
    assert verified["facts"]["verdict"] == "fail"
    failed = [gate for gate in verified["document"]["gates"] if not gate["passed"]]
    assert [(gate["name"], gate["model"]) for gate in failed] == [("loads", "student/gguf:Q4_0")]
    assert not list(verified["work"].rglob("*.f32"))


def test_finished_models_are_not_run_again(
    verified: dict[str, Any], tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "again"
    shutil.copytree(verified["work"], work)
    for role in ("teacher", "student"):  # as a kill would have left them
        (work / "models" / f"reference-{role}.f32").write_bytes(bytes(40 * 400 * 4))
    monkeypatch.setattr("distill2edge.util.isolate._run", lambda *_: pytest.fail("a worker was started"))
    verify_token_models(
        [
            _file(models["teacher"], "teacher", "teacher", "torch:fp32"),
            _file(models["student"], "student", "student", "torch:fp32"),
            _file(models["same"], "student/onnx:int8"),
        ],
        {"teacher": _choices(_rows(30))},
        Verify(rows=24, max_tokens=40),
        template="chat",
        seed=0,
        work=work,
        progress=SilentProgress(),
        threads=1,
    )
    document = json.loads((work / "verify.json").read_text())
    assert document["verdict"] == "pass"
    assert document["models"] == verified["document"]["models"][:3]


def test_short_answers_are_generated_and_long_ones_scored_by_likelihood(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    runtime = _runtime(models["teacher"])
    rows = []
    for row in _rows(6):
        prompt = row.ids[: row.prompt_length]
        rows.append(_row(prompt, [*scores.generate(runtime, prompt, 5, (STOP,)), STOP]))
    teacher = _file(models["teacher"], "teacher", "teacher", "torch:fp32")
    student = _file(models["student"], "student", "student", "torch:fp32")
    encodings = {"teacher": Encodings(rows, None, "v", (STOP,))}
    section = Verify(min_retained=0.9)
    options: dict[str, Any] = {"seed": 0, "progress": SilentProgress(), "threads": 1}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    facts = verify_token_models([teacher, student], encodings, section, template="chat", work=tmp_path / "a", **options)
    document = json.loads((tmp_path / "a" / "verify.json").read_text())
    assert facts["metric"] == "exact_match"
    assert document["models"][1]["score"]["value"] == 0  # a random student
    assert facts["verdict"] == "fail"
    facts = verify_token_models([teacher], encodings, section, template="text", work=tmp_path / "b", **options)
    document = json.loads((tmp_path / "b" / "verify.json").read_text())
    assert facts["metric"] == "neg_log_likelihood"
    figures = document["models"][0]
    assert figures["score"]["value"] == pytest.approx(1 / figures["perplexity"]["value"], rel=1e-6)


def test_a_file_that_is_not_there_is_told_by_its_worker(tmp_path: Path) -> None:
    spec = {"runtime": "torch", "path": str(tmp_path / "nothing"), "threads": 1, "context": 8, "rows": "r.json"}
    (tmp_path / "r.json").write_text(json.dumps({"rows": [], "choices": None, "vocabulary": "v"}))
    outcome = run_worker("distill2edge.verify.token_worker", {**spec, "stop": []}, tmp_path, "x", threads=1)
    assert isinstance(outcome, Crash)
    assert "no such model file" in outcome.words
    assert "exit code" not in outcome.words
    assert not outcome.environment


def test_a_silent_worker_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", CRASH)
    (tmp_path / "hang").mkdir()
    (tmp_path / "r.json").write_text(json.dumps({"rows": [], "choices": None, "vocabulary": "v"}))
    spec = {"runtime": "torch", "path": str(tmp_path / "hang"), "threads": 1, "context": 8, "rows": "r.json"}
    outcome = run_worker(
        "distill2edge.verify.token_worker", {**spec, "stop": []}, tmp_path, "x", threads=1, silence_s=2.0
    )
    assert isinstance(outcome, Crash)
    assert "said nothing for 2 s" in outcome.words


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal")
def test_a_killed_run_leaves_no_worker_behind(tmp_path: Path) -> None:
    (tmp_path / "hang").mkdir()
    (tmp_path / "r.json").write_text(json.dumps({"rows": [], "choices": None, "vocabulary": "v"}))
    spec = {"runtime": "torch", "path": str(tmp_path / "hang"), "threads": 1, "context": 8, "rows": "r.json"}
    code = (
        "import sys; from pathlib import Path; from distill2edge.util.isolate import run_worker as run;"
        f"run('distill2edge.verify.token_worker', { ({**spec, 'stop': []})!r}, Path(sys.argv[1]), 'x', threads=1)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": CRASH})
    me = psutil.Process(parent.pid)
    deadline = time.monotonic() + 30
    while not (workers := me.children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    while "opened" not in (tmp_path / "x.log").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert gone
    assert not alive


def test_what_cannot_be_compared_is_refused(tmp_path: Path, models: dict[str, Path]) -> None:
    teacher = _file(models["teacher"], "teacher", "teacher", "torch:fp32")
    student = _file(models["student"], "student", "student", "torch:fp32")
    rows = _rows(4)
    full = Encodings(rows, None, "v", (STOP,))
    options: dict[str, Any] = {
        "spec": Verify(), "template": "chat", "seed": 0, "work": tmp_path, "progress": SilentProgress()
    }  # fmt: skip
    # A student alone is that of a teacher behind an endpoint; a control, or a teacher's file, has nothing beside it.
    control = _file(models["student"], "control", "control", "torch:fp32")
    with pytest.raises(UserError, match="no dense teacher"):
        verify_token_models([control], {"teacher": full}, **options)
    file = _file(models["teacher"], "teacher/gguf:Q8_0", "teacher", "gguf:Q8_0")
    with pytest.raises(UserError, match="no dense teacher"):
        verify_token_models([student, file], {"teacher": full}, **options)
    with pytest.raises(UserError, match="two models are called"):
        verify_token_models([teacher, teacher], {"teacher": full}, **options)
    with pytest.raises(UserError, match="different held-out rows"):
        verify_token_models([teacher, student], {"teacher": full, "student": full.head(3)}, **options)
    with pytest.raises(UserError, match="no held-out rows"):
        verify_token_models([teacher], {"teacher": full.head(0)}, **options)


def test_a_full_disk_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="are needed") as caught:
        fidelity.create_reference(tmp_path / "r.f32", 10**9, 10**6)
    assert "verify.max_tokens" in caught.value.fix
    assert not (tmp_path / "r.f32").exists()


# --- scores -------------------------------------------------------------------


def _runtime(path: Path) -> Any:
    from distill2edge.runtimes.torch_runtime import TorchRuntime

    return TorchRuntime(path, threads=1, context=128)


class _Counting:
    """A runtime that counts its passes."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.passes, self.vocab_size = inner, 0, inner.vocab_size

    def logits(self, ids: Sequence[int], positions: Sequence[int]) -> Any:
        self.passes += 1
        return self.inner.logits(ids, positions)


@pytest.mark.parametrize(
    ("choices", "passes"),
    [
        ([[5], [6], [7]], 1),
        ([[9, 5], [9, 6]], 1),
        ([[9, 5], [6]], 1),
        ([[9, 5], [8, 6]], 2),
        ([[9, 5, 4], [9, 6, 4], [3]], 2),
    ],
)
def test_choices_cost_as_few_passes_as_they_can(models: dict[str, Path], choices: list[list[int]], passes: int) -> None:
    runtime = _Counting(_runtime(models["teacher"]))
    prompt = [1, 20, 30, 40]
    got = scores.choice_likelihoods(runtime, prompt, choices)  # type: ignore[arg-type]
    assert runtime.passes == passes
    for choice, likelihood in zip(choices, got, strict=True):
        positions = [len(prompt) - 1 + index for index in range(len(choice))]
        rows = scores.log_softmax(runtime.inner.logits([*prompt, *choice], positions))
        assert likelihood == pytest.approx(float(rows[range(len(choice)), choice].sum()), abs=1e-4)


def test_a_shared_end_token_is_left_out_where_it_tells_nothing() -> None:
    assert scores.trim_stop([[5, 2], [6, 2]], (2,)) == [(5,), (6,)]
    assert scores.trim_stop([[5, 2], [5, 6, 2]], (2,)) == [(5, 2), (5, 6, 2)]
    assert scores.trim_stop([[5], [6]], (2,)) == [(5,), (6,)]
    assert scores.trim_stop([[5, 7], [6, 7]], (2,)) == [(5, 7), (6, 7)]


@given(
    hnp.arrays(np.float32, (3, 11), elements=st.floats(-30, 30, width=32)),
    hnp.arrays(np.float32, (3, 11), elements=st.floats(-30, 30, width=32)),
)
def test_divergence_is_that_of_its_definition(a: Any, b: Any) -> None:
    p, q = scores.log_softmax(a), scores.log_softmax(b)
    exact_p = a - np.logaddexp.reduce(a.astype(np.float64), axis=1, keepdims=True)
    exact_q = b - np.logaddexp.reduce(b.astype(np.float64), axis=1, keepdims=True)
    expected = (np.exp(exact_p) * (exact_p - exact_q)).sum(axis=1)
    np.testing.assert_allclose(fidelity.kl_divergence(p, q), expected, atol=1e-4)
    np.testing.assert_array_equal(fidelity.kl_divergence(p, p), 0)
    assert (fidelity.kl_divergence(p, q) >= 0).all()
    np.testing.assert_array_equal(fidelity.agreement(p, p), 1)


def test_padding_of_the_vocabulary_does_not_count() -> None:
    logits = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    padded = np.concatenate([logits, np.full((2, 4), -np.inf, dtype=np.float32)], axis=1)
    divergence = fidelity.kl_divergence(scores.log_softmax(logits), scores.log_softmax(padded))
    np.testing.assert_allclose(divergence, 0, atol=1e-6)


def test_logits_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="not numbers"):
        scores.log_softmax(np.array([[0.0, np.nan]], dtype=np.float32))


@given(st.integers(1, 50))
def test_positions_stop_at_the_cap_and_predict_supervised_tokens(cap: int) -> None:
    rows = _rows(8, response=4)
    spans = fidelity.choose_positions(rows, cap)
    assert fidelity.count_positions(spans) == min(cap, 32)
    assert all(rows[span.row].mask[position + 1] for span in spans for position in span.positions)
    everything = fidelity.choose_positions(rows, 10_000, "all")
    assert fidelity.count_positions(everything) == sum(len(row.ids) - 1 for row in rows)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    from distill2edge.verify.classifiers import calibration_error

    sure = np.log(np.array([[0.9, 0.1]] * 10, dtype=np.float32))
    assert calibration_error(sure, np.array([0] * 9 + [1])) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error(sure, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.4, abs=1e-6)
    both = np.concatenate([sure, np.log(np.array([[0.4, 0.6]] * 10, dtype=np.float32))])
    truth = np.array([0] * 9 + [1] + [1] * 10)  # the first half is right as often as it is sure, the other always
    assert calibration_error(both, truth) == pytest.approx(0.2, abs=1e-6)
