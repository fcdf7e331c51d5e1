"""What training processes tell: progress, one clear error, and whether they are about to do the same."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.processes.choice import is_launched, local_group
from distill2edge.processes.group import Job, together, trained_by
from distill2edge.processes.launched_group import difference, is_loss, places_of, settle_launcher, unseen
from distill2edge.processes.local_group import MEETING, LocalGroup, check_batches, packed, unpacked
from distill2edge.processes.messages import Shown, ToParent, ending_of, error_of
from distill2edge.recipe import schema
from distill2edge.util.interrupts import Stopped


class Told:
    """A progress that remembers."""

    stage = "distill"

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    warn = say

    def figures(self, values: Any) -> None:
        self.lines.append(values)

    @contextmanager
    def task(self, title: str, total: int) -> Any:
        self.lines.append((title, total))
        yield self
        self.lines.append("end")

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.lines.append((steps, note))


def test_progress_crosses_processes_as_it_is() -> None:
    channel, seen = io.StringIO(), Told()
    there, shown = ToParent(channel, "distill"), Shown(seen)
    there.say("a\nb")
    with there.task("train", 3) as task:
        task.advance(2, "loss 1")
    there.figures({"loss": 1.5})
    for line in channel.getvalue().splitlines():
        shown.show(json.loads(line))
    assert seen.lines == ["a\nb", ("train", 3), (2, "loss 1"), "end", {"loss": 1.5}]


@pytest.mark.parametrize("kind", [UserError, EnvironmentFault])
def test_an_error_of_a_process_is_the_users_error(kind: type[UserError]) -> None:
    there = error_of(json.loads(json.dumps(ending_of(kind("what", where="where", fix="fix")))))
    assert type(there) is kind
    assert str(there) == "where: what\n  fix: fix"


def test_other_endings() -> None:
    assert ending_of(Stopped(15)) == {"stopped": 15}
    assert "disk is full" in str(error_of(ending_of(OSError(28, "No space left on device"))))
    assert "ZeroDivisionError" in ending_of(ZeroDivisionError("1/0"))["fault"]


@together
def doubled(number: int, progress: Any, training: Any = None) -> int:
    return 2 * number


class Asked:
    """A group that remembers what it is asked."""

    def call(self, job: Job, progress: Any) -> Any:
        self.job, again = job, unpacked(packed(job))
        assert again == job
        return doubled(**again.arguments, progress=progress)  # in the group's own processes there is none


def test_a_group_makes_the_call_in_place_of_this_process() -> None:
    group = Asked()
    with trained_by(group):
        assert doubled(4, progress=Told(), training=schema.Training(batch_size=2)) == 8
    assert group.job.function.endswith("test_messages:doubled")
    assert (group.job.stage, group.job.batches) == ("distill", [2])
    assert doubled(5, Told()) == 10


def test_more_processes_than_rows_of_a_batch_are_refused() -> None:
    job = Job("a:b", {"training": schema.Training(batch_size=2)}, "distill control")
    check_batches(job, 2)
    with pytest.raises(UserError, match="3 processes share a batch of 2 rows") as found:
        check_batches(job, 3)
    assert found.value.where == "distill control: batch_size"


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    assert local_group(None, warned.append) is None
    assert local_group(1, warned.append) is None
    monkeypatch.setattr("distill2edge.processes.choice.available_threads", lambda: 2)
    assert isinstance(local_group(2, warned.append), LocalGroup)
    assert not warned
    local_group(3, warned.append)
    assert "2 cores are usable here" in warned[0]
    with pytest.raises(UserError, match="0 is no number of processes"):
        local_group(0, warned.append)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(EnvironmentFault, match="2 processes, and 1 GPU that each"):
        local_group(2, warned.append)
    monkeypatch.setenv(MEETING, "there")
    with pytest.raises(UserError, match="a training process is starting a run"):
        local_group(2, warned.append)


def test_a_launcher_is_known_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", MEETING):
        monkeypatch.delenv(name, raising=False)
    assert not is_launched()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not is_launched()
    monkeypatch.setenv("RANK", "0")
    assert is_launched()
    monkeypatch.setenv(MEETING, "there")
    assert not is_launched()


def test_accelerate_says_nothing_of_the_training() -> None:
    environment = {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": "true", "RANK": "0"}
    settle_launcher(environment)
    assert environment == {"RANK": "0", "CUDA_VISIBLE_DEVICES": ""}
    with pytest.raises(UserError, match="asks for DeepSpeed"):
        settle_launcher({"ACCELERATE_USE_DEEPSPEED": "true"})


def about(**changes: Any) -> dict[str, Any]:
    return {"recipe": "a: 1\nb: 2\n", "versions": {"torch": "2"}, "keys": {"data": "k"}} | changes


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (about(), ""),
        (about(keys=None), ""),
        (about(recipe="a: 1\nb: 3\n"), "another recipe than process 0: 'b: 3', not 'b: 2'"),
        (about(versions={"torch": "3"}), "torch 3, and process 0 has 2"),
        (about(versions={}), "torch None, and process 0 has 2"),
        (about(keys={"data": "l"}), "other data, models or code in data"),
        ({"error": "data.source: no such file"}, "data.source: no such file"),
    ],
)
def test_the_first_difference_is_named(other: dict[str, Any], said: str) -> None:
    assert difference(about(), other) == said


def test_places_that_another_machine_lacks(tmp_path: Path) -> None:
    here, gone = tmp_path / "here", tmp_path / "gone"
    here.mkdir()
    job = Job("a:b", {"model_dir": here, "signal": (gone, 1.0), "work": tmp_path}, "distill")
    assert places_of(job) == [str(here), str(tmp_path)]
    assert unseen([str(here)]) == ""
    assert unseen([str(here), str(gone)], patience_s=0) == str(gone)


def test_signs_that_a_process_is_gone() -> None:
    assert is_loss("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    assert not is_loss("division by zero")
