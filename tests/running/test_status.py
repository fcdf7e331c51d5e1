"""What a run says of itself to another process, and what is believed of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill2edge.errors import UserError
from distill2edge.running.runlog import LoggedProgress, RunLog
from distill2edge.running.status import FILE, StatusFile, read_status
from distill2edge.util.progress import SilentProgress


def test_another_process_reads_stage_task_and_end(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    status = StatusFile(tmp_path / FILE, "run")
    with RunLog(tmp_path / "run.log") as log:
        progress = LoggedProgress(SilentProgress(), log, tmp_path / "train.jsonl", status)
        progress.planned(["data", "teacher", "distill"], None)
        progress.stage = "teacher"
        with progress.task("signal \x1b[2J", 3) as task:
            found = read_status(tmp_path)
            assert found is not None
            assert (found.state, found.stage, found.number, found.task) == ("running", "teacher", 2,
                                                                             ("signal \\u001b[2J", 0, 3))  # fmt: skip
            task.advance(1, "loss 2.1")  # within two seconds: not written
            task.advance(2, "loss 1.9")
            found = read_status(tmp_path)
            assert found is not None
            assert found.task == ("signal \\u001b[2J", 3, 3)
            assert found.note == "loss 1.9"
        status.ended("failed", "no room\n  fix: free some")
    found = read_status(tmp_path)
    assert found is not None
    assert (found.state, found.error, found.task) == ("failed", "no room fix: free some", None)
    assert not {"pid", "host"} & json.loads((tmp_path / FILE).read_text()).keys()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_killed_run_and_one_of_another_machine(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import os, sys; from pathlib import Path; from distill2edge.running.status import *\n"
         "status = StatusFile(Path(sys.argv[1]) / FILE, 'run'); status.planned(['data'], 3); os._exit(9)",
         str(tmp_path)], check=False)  # fmt: skip
    found = read_status(tmp_path)
    assert found is not None
    assert (found.state, found.stages, found.seed) == ("killed", ("data",), 3)
    document = json.loads((tmp_path / FILE).read_text())
    for state, times in (("running", None), ("silent", (1.0, 1.0))):
        (tmp_path / FILE).write_text(json.dumps({**document, "host": "elsewhere"}))
        if times:
            os.utime(tmp_path / FILE, times)
        found = read_status(tmp_path)
        assert found is not None
        assert found.state == state


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"state": 5}', b"[" * 100_000])
def test_a_damaged_status_is_an_error_with_its_place(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        read_status(tmp_path)


def test_a_status_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="link"):
        read_status(tmp_path)


def test_a_status_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    status = StatusFile(tmp_path / FILE, "run")
    status.planned(["data"], None)
    status.ended("done")
    assert (tmp_path / FILE).is_dir()
