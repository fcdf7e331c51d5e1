"""Bench on tiny models: fresh processes, forced lengths, speed-ups, crashes; and its parts by value."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill2edge.bench import contention, energy
from distill2edge.bench.bench_worker import serve_request
from distill2edge.bench.cells import Cell, speedups, summarise
from distill2edge.bench.measure import bench_models
from distill2edge.bench.workloads import build_workloads
from distill2edge.data.examples import Encoded, example_id
from distill2edge.errors import UserError
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.recipe.schema import Bench
from distill2edge.util.isolate import Crash
from distill2edge.util.machine import peak_rss_bytes
from distill2edge.util.progress import SilentProgress
from distill2edge.util.terminal import in_short
from tests.tiny import tiny_llama

CRASH = str(Path(__file__).parents[1] / "crash")


def _encodings(count: int = 12, prompt: int = 6, response: int = 3, shift: int = 0) -> Encodings:
    random = np.random.default_rng(shift)
    rows = []
    for index in range(count):
        ids = random.integers(3, 390, prompt + response).tolist()
        mask = [False] * prompt + [True] * response
        rows.append(Encoded(example_id(ids, mask), ids, mask, -1, f"row{index}"))
    return Encodings(rows, None, f"v{shift}", (2,))


def _file(path: Path, name: str, role: Any = "student", scheme: str = "torch:fp32") -> ModelFile:
    return ModelFile(name, role, scheme, "torch", path, 1000, 4000)


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two passes of teacher, student, and a file that crashes its runtime."""
    root = tmp_path_factory.mktemp("bench")
    tiny_llama(root / "teacher", layers=4)
    tiny_llama(root / "student", layers=1)
    shutil.copytree(root / "student", root / "abort")
    models = [
        _file(root / "teacher", "teacher", "teacher"),
        _file(root / "student", "student"),
        _file(root / "student", "control", "control"),
        _file(root / "abort", "student/gguf:Q4_0", scheme="gguf:Q4_0"),
    ]
    work = root / "work"
    spec = Bench(workloads=("task", "chat-8-4"), rounds=2, requests=3, threads=1)
    options: dict[str, Any] = {"seed": 0, "work": work, "progress": SilentProgress()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", CRASH)
        facts = bench_models(models, {"teacher": _encodings()}, spec, **options)
    document = json.loads((work / "bench.json").read_text())
    return {"facts": facts, "document": document, "work": work, "arguments": (models[:2], spec, options)}


def _cell(benched: dict[str, Any], name: str) -> dict[str, Any]:
    return next(cell for cell in benched["document"]["cells"] if cell["id"] == name)


def test_a_cell_has_every_figure(benched: dict[str, Any]) -> None:
    cell = _cell(benched, "student@cpu")
    assert cell["error"] is None
    assert cell["disk_bytes"] == 4000
    assert cell["peak_rss_bytes"] > 50e6
    assert cell["cold_start_s"]["value"] > 0.1  # an interpreter and its libraries
    assert cell["cold_start_s"]["n"] == 2
    assert set(cell["workloads"]) == {"task", "chat-8-4"}
    figures = cell["workloads"]["chat-8-4"]
    assert figures["ttft_ms"]["n"] == 6
    assert figures["ttft_ms"]["p50"] < figures["e2e_ms"]["p50"] < 1e3 * cell["cold_start_s"]["value"]
    decode = figures["decode_tps"]
    assert decode["low"] * 0.999 <= 1e3 / figures["tpot_ms"]["p50"] <= decode["high"] * 1.001
    assert figures["energy"]["label"] in ("measured", "unavailable")
    assert "p99" not in figures["e2e_ms"]


def test_the_control_is_left_out_and_a_crash_hurts_no_other(benched: dict[str, Any]) -> None:
    assert [cell["id"] for cell in benched["document"]["cells"]] == [
        "teacher@cpu", "student@cpu", "student/gguf:Q4_0@cpu",
    ]  # fmt: skip
    crashed = _cell(benched, "student/gguf:Q4_0@cpu")
    assert "SIGABRT" in crashed["error"]
    assert "GGML_ASSERT" in crashed["error"]
    assert crashed["workloads"] == {}
    assert list(benched["facts"]["errors"]) == ["student/gguf:Q4_0@cpu"]


def test_speed_ups_stand_against_the_teacher(benched: dict[str, Any]) -> None:
    found = {(row["cell"], row["against"], row["workload"]): row for row in benched["document"]["speedups"]}
    row = found["student@cpu", "teacher@cpu", "chat-8-4"]
    assert row["ratio"]["low"] <= row["ratio"]["value"] <= row["ratio"]["high"]
    assert row["time_saved"]["value"] == pytest.approx(1 - 1 / row["ratio"]["value"])
    assert ("teacher@cpu", "teacher@cpu", "task") not in found


def test_workloads_are_told_and_hashed(benched: dict[str, Any]) -> None:
    task, chat = benched["document"]["workloads"]
    assert (task["prompt_tokens"], task["output_tokens"], task["requests"]) == (6, 3, 3)
    assert (chat["prompt_tokens"], chat["output_tokens"]) == (8, 4)
    assert task["sha256"] != chat["sha256"]
    assert benched["document"]["machine"]["cores"] >= 1


def test_finished_passes_are_not_run_again(benched: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    models, spec, options = benched["arguments"]
    monkeypatch.setattr("distill2edge.util.isolate._run", lambda *_: pytest.fail("a worker was started"))
    bench_models(models, {"teacher": _encodings()}, spec, **options)
    document = json.loads((benched["work"] / "bench.json").read_text())
    assert document["cells"] == benched["document"]["cells"][:2]


def test_without_a_gpu_its_cells_say_so_and_name_the_fix(benched: dict[str, Any], tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    models, _, options = benched["arguments"]
    spec = Bench(workloads=("chat-4-2",), devices=("gpu",), rounds=2, requests=1)
    facts = bench_models(models[:1], {"teacher": _encodings()}, spec, **{**options, "work": tmp_path})
    assert facts["errors"]["teacher@gpu"].startswith("not available: ")
    assert "install a CUDA build" in facts["errors"]["teacher@gpu"]


def test_nothing_to_measure_is_refused(benched: dict[str, Any], tmp_path: Path) -> None:
    models, _, options = benched["arguments"]
    with pytest.raises(UserError, match="nothing to measure"):
        bench_models(models, {"teacher": _encodings()}, Bench(torch=False), **{**options, "work": tmp_path})


# --- workloads ----------------------------------------------------------------


def test_each_vocabulary_gets_its_own_tokens_of_the_same_rows() -> None:
    sides = {"teacher": _encodings(), "student": _encodings(prompt=9, response=1, shift=1)}
    task, chat = build_workloads(["task", "chat-5-2"], sides, 4)
    mine = [next(r.row for r in sides["teacher"].rows if r.ids[:6] == request.ids) for request in task.of("teacher")]
    other = [next(r.row for r in sides["student"].rows if r.ids[:9] == request.ids) for request in task.of("control")]
    assert mine == other
    assert [request.output for request in task.of("student")] == [2] * 4  # one token has no pace
    assert {len(request.ids) for side in ("teacher", "student") for request in chat.of(side)} == {5}


def test_a_workload_is_the_same_for_the_same_seed_and_longer_than_the_data() -> None:
    sides = {"teacher": _encodings(count=2)}
    one, two = (build_workloads(["chat-50-3"], sides, 4)[0] for _ in range(2))
    assert one.sha256 == two.sha256
    assert [len(request.ids) for request in one.of("teacher")] == [50] * 4


def test_every_seed_measures_the_same_workload(
    benched: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill2edge.bench.measure.run_worker", lambda *args, **named: Crash("not run here"))
    models, _, options = benched["arguments"]
    for seed in (0, 1):
        bench_models(
            models[:1], {"teacher": _encodings()}, Bench(), **{**options, "work": tmp_path / f"{seed}", "seed": seed}
        )
    one, two = (json.loads((tmp_path / f"{seed}" / "bench.json").read_text())["workloads"] for seed in (0, 1))
    assert one == two


def test_a_text_row_is_cut_in_half() -> None:
    task = build_workloads(["task"], {"teacher": _encodings(prompt=1, response=9)}, 1)[0]
    assert (len(task.of("teacher")[0].ids), task.of("teacher")[0].output) == (5, 5)


@pytest.mark.parametrize("name", ["chat", "chat-0-4", "chat-8-1", "tasks", "chat-8-4-2"])
def test_an_unknown_workload_names_the_known_ones(name: str) -> None:
    with pytest.raises(UserError) as caught:
        build_workloads([name], {"teacher": _encodings()}, 1)
    assert caught.value.where == "bench.workloads"
    assert caught.value.fix


# --- clock and figures --------------------------------------------------------


class _Counter:
    """A runtime that always ends the text, and counts."""

    vocab_size = 4

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.prompt: list[int] = []

    def prefill(self, ids: Sequence[int]) -> Any:
        self.prompt = list(ids)
        return np.array([0, 0, 9, 0], dtype=np.float32)

    def decode(self, token: int) -> Any:
        self.tokens.append(token)
        return np.array([0, 0, 9, 0], dtype=np.float32)


def test_the_output_length_is_forced_and_greedy() -> None:
    runtime = _Counter()
    first, whole = serve_request(runtime, [1, 2], 5)  # type: ignore[arg-type]
    assert runtime.prompt == [1, 2]
    assert runtime.tokens == [2] * 4
    assert 0 < first <= whole


def test_peak_memory_counts_what_was_freed() -> None:
    before = peak_rss_bytes()
    block = np.ones(40_000_000, dtype=np.uint8)
    del block
    assert peak_rss_bytes() >= before


def _pass(ttft: float, e2e: float, joules: float | None = None) -> dict[str, Any]:
    workload = {
        "ttft_s": [ttft] * 2, "e2e_s": [e2e] * 2, "prompt": [100] * 2, "output": [11] * 2,
        "joules": joules, "contention": {"wall_s": 2 * e2e},
    }  # fmt: skip
    return {"cold_start_s": 3.0, "peak_rss_bytes": 7, "workloads": {"task": workload}}


def test_figures_follow_their_formulas(tmp_path: Path) -> None:
    cell = Cell(_file(tmp_path, "student"), "cpu")
    figures = summarise(cell, [_pass(0.5, 1.5)] * 3, None, threads=1, watts=None, seed=0)["workloads"]["task"]
    assert figures["ttft_ms"]["p50"] == pytest.approx(500)
    assert figures["tpot_ms"]["p50"] == pytest.approx(100)  # (1.5 - 0.5) / (11 - 1)
    assert figures["prefill_tps"]["value"] == pytest.approx(200)
    assert figures["decode_tps"]["value"] == pytest.approx(10)
    assert figures["requests_per_s"]["value"] == pytest.approx(1 / 1.5)
    assert figures["energy"] == {"label": "unavailable", "joules_per_request": None}


def test_the_teacher_is_also_met_in_its_best_runtime(tmp_path: Path) -> None:
    teacher = Cell(_file(tmp_path, "teacher", "teacher"), "cpu")
    quick = Cell(_file(tmp_path, "teacher/gguf:Q8_0", "teacher", "gguf:Q8_0"), "cpu")
    student = Cell(_file(tmp_path, "student/gguf:Q8_0", scheme="gguf:Q8_0"), "cpu")
    passes = {teacher.id: [_pass(1, 8)] * 2, quick.id: [_pass(1, 4)] * 2, student.id: [_pass(1, 2)] * 2}
    found = {
        (row["cell"], row["against"]): row["ratio"]["value"]
        for row in speedups([teacher, quick, student], passes, seed=0)
    }
    assert found == {
        (quick.id, teacher.id): 2,
        (student.id, teacher.id): 4,
        (teacher.id, quick.id): 0.5,
        (student.id, quick.id): 2,
    }


# --- contention and energy ----------------------------------------------------


def test_a_quiet_machine_has_no_reason_and_a_busy_one_says_which() -> None:
    quiet = {"steal_share": 0.0, "foreign_cores": 0.1, "wait_share": 0.01, "throttled_share": None}
    assert contention.reasons(quiet, threads=2, cores=2) == []
    for key, value, told in (
        ("steal_share", 0.2, "hypervisor"),
        ("foreign_cores", 1.0, "other processes used 1.0 of 2 cores"),
        ("wait_share", 0.3, "waited for a core"),
        ("throttled_share", 0.5, "quota"),
    ):
        (reason,) = contention.reasons({**quiet, key: value}, threads=2, cores=2)
        assert told in reason
    assert contention.reasons({**quiet, "foreign_cores": 1.0}, threads=2, cores=16) == []


def test_the_probe_sees_our_own_work_as_ours() -> None:
    import time

    probe = contention.Probe(1)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    reading = probe.stop()
    assert reading["wall_s"] == pytest.approx(0.3, abs=0.15)
    assert reading["cpu_share"] is not None
    assert 0 < reading["cpu_share"] <= 1.2


def test_the_worst_of_several_readings() -> None:
    got = contention.worst([{"wall_s": 1.0, "steal_share": None, "cpu_share": 0.9}, {"wall_s": 2.0, "cpu_share": 0.5}])
    assert got == {"wall_s": 3.0, "steal_share": None, "cpu_share": 0.5}


def _counter(root: Path, name: str, value: int) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "energy_uj").write_text(str(value))
    (root / name / "max_energy_range_uj").write_text("1000000000")


def test_energy_is_the_packages_count_through_a_wrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_SHORTEST", 0.0)
    _counter(tmp_path, "intel-rapl:0", 999_000_000)
    _counter(tmp_path, "intel-rapl:0:0", 5)  # the cores, which the package counts already
    _counter(tmp_path, "intel-rapl:1", 10_000_000)
    meter = energy.Meter(powercap=tmp_path)
    _counter(tmp_path, "intel-rapl:0", 4_000_000)
    _counter(tmp_path, "intel-rapl:1", 13_000_000)
    assert meter.stop() == pytest.approx(5 + 3)


def test_energy_that_cannot_be_read_is_never_called_measured(tmp_path: Path) -> None:
    assert energy.Meter(powercap=tmp_path / "none").stop() is None
    _counter(tmp_path, "intel-rapl:0", 1)
    assert energy.Meter(powercap=tmp_path).stop() is None  # too short to say
    assert energy.label([None, 4.0], 2.0, 2, None)["label"] == "unavailable"
    assert energy.label([None], 2.0, 2, 15.0) == {"label": "estimated", "joules_per_request": 30.0}
    assert energy.label([8.0, 4.0], 2.0, 2, 15.0) == {"label": "measured", "joules_per_request": 3.0}


def test_reasons_of_several_cells_are_said_once() -> None:
    waited = "the benchmark's threads waited for a core {}% of the time"
    found = ["other processes used 1.3 of 2 cores", waited.format(9), "other processes used 1.6 of 2 cores",
             waited.format(87), waited.format(70), "no figure"]  # fmt: skip
    assert in_short(found) == (
        "other processes used 1.3 to 1.6 of 2 cores; the benchmark's threads waited for a core 9 to 87% of the time; "
        "no figure"
    )
    assert in_short([waited.format(9)] * 2) == waited.format(9)
