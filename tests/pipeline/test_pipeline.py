"""The engine: keys follow what a stage reads, cached stages are not run, `upto` takes what is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_stage import MadeStage

from distill2edge.errors import UserError
from distill2edge.pipeline.run_stages import keys_of, run_stages, upto
from distill2edge.pipeline.store import Store
from distill2edge.util.progress import SilentProgress


def graph(calls: list[str], *, layers: int = 2, fail: str = "", seed: int = 0) -> list[MadeStage]:
    def writes(name: str) -> Any:
        def write(work: Path, inputs: Any, progress: Any) -> dict[str, Any]:
            calls.append(name)
            if name == fail:
                raise UserError("this stage fails")
            (work / "out").write_text("+".join([name, *((inputs[p].path / "out").read_text() for p in inputs)]))
            return {}

        return write

    return [
        MadeStage(name, writes(name), section, parents, seed)
        for name, section, parents in (
            ("data", {"source": "a"}, ()),
            ("teacher", {"model": "b"}, ()),
            ("student", {"layers": layers}, ("teacher",)),
            ("distill", {}, ("data", "student")),
            ("export x", {}, ("distill",)),
        )
    ]


def run(stages: list[MadeStage], root: Path, force: frozenset[str] = frozenset()) -> list[Any]:
    return run_stages(stages, Store(root), SilentProgress(), force)


def test_a_second_run_runs_nothing(tmp_path: Path) -> None:
    calls: list[str] = []
    run(graph(calls), tmp_path)
    done = run(graph(calls), tmp_path)
    assert calls == ["data", "teacher", "student", "distill", "export x"]
    assert all(item.cached for item in done)
    assert (done[-1].artifact.path / "out").read_text() == "export x+distill+data+student+teacher"


def test_a_change_reruns_what_reads_it_and_nothing_else(tmp_path: Path) -> None:
    calls: list[str] = []
    run(graph(calls), tmp_path)
    calls.clear()
    run(graph(calls, layers=3), tmp_path)
    assert calls == ["student", "distill", "export x"]
    calls.clear()
    run(graph(calls), tmp_path)
    assert calls == []


def test_what_another_run_made_meanwhile_is_reused_and_said_so(tmp_path: Path) -> None:
    calls: list[str] = []

    class Late(Store):
        def get(self, stage: str, key: str, *rest: Any) -> Any:
            if stage == "student" and "student" not in calls:
                run(graph(calls)[:3], tmp_path)  # while this one waits for its turn
                return None
            return super().get(stage, key, *rest)

    said: list[str] = []
    progress = SilentProgress()
    progress.say = said.append  # type: ignore[method-assign]
    done = run_stages(graph(calls), Late(tmp_path), progress)
    assert calls == ["data", "teacher", "student", "distill", "export x"]
    assert [item.cached for item in done] == [False, False, True, False, False]
    (line,) = [each for each in said if "student:" in each]
    assert "reused, made by another run" in line


def test_the_seed_is_part_of_every_key() -> None:
    assert not set(keys_of(graph([])).values()) & set(keys_of(graph([], seed=1)).values())


def test_what_is_finished_before_a_failure_is_kept(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(UserError):
        run(graph(calls, fail="distill"), tmp_path)
    calls.clear()
    run(graph(calls), tmp_path)
    assert calls == ["distill", "export x"]


def test_a_forced_stage_is_made_again_with_what_reads_it(tmp_path: Path) -> None:
    calls: list[str] = []
    run(graph(calls), tmp_path)
    calls.clear()
    run(graph(calls), tmp_path, force=frozenset({"distill"}))
    assert calls == ["distill", "export x"]


def test_a_damaged_entry_is_recomputed(tmp_path: Path) -> None:
    calls: list[str] = []
    done = run(graph(calls), tmp_path)
    (done[2].artifact.path / "out").write_text("garbage")
    calls.clear()
    run(graph(calls), tmp_path)
    assert calls == ["student"]


def test_upto_takes_the_stages_that_are_read() -> None:
    assert [stage.name for stage in upto(graph([]), "student")] == ["teacher", "student"]
    assert [stage.name for stage in upto(graph([]), "export")] == ["data", "teacher", "student", "distill", "export x"]
