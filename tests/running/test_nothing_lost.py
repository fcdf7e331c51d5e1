"""What is declared is what ships; the run directory is not the store; every fault of a directory has its own error."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from golden import stages as golden
from made_stage import MadeStage

from distill2edge import stages
from distill2edge.cli.main import main
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pipeline.run_stages import Done, run_stages
from distill2edge.pipeline.stage_files import Files
from distill2edge.pipeline.store import Store
from distill2edge.running import directory
from distill2edge.running.runlog import LoggedProgress, RunLog
from distill2edge.running.status import StatusFile
from distill2edge.stages import Stage
from distill2edge.util.files import clone
from distill2edge.util.progress import SilentProgress

KEY = "ab" * 32


class Warned(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, line: str) -> None:
        self.lines.append(line)


def build(store: Store, write: Any, files: Files, progress: Any = None) -> Any:
    return store.build("export", KEY, {}, {}, 0, write, progress or Warned(), files)


def test_what_a_killed_export_or_verify_leaves_is_not_kept() -> None:
    export, verify = stages.KINDS["export"].files, stages.KINDS["verify"].files
    left = ("model.onnx.data.part", "scratch-x1/model_fp32.onnx", ".model.onnx.ab12.onnx", "model.part", "base.part")
    for name in left:  # of a killed export: neither kept nor shipped
        assert not export.held(name)
        assert not export.resumed(name)
    assert not verify.resumed("models/.student.json.abcd.json")


def test_a_stage_begins_without_what_a_killed_try_left(tmp_path: Path) -> None:
    store, files = Store(tmp_path), Files(("model.onnx", "shard-*"), ("shard-*", "trained/**"))
    work = tmp_path / "partial" / f"export-{KEY[:20]}"
    for name in (
        "scratch-1/fp32.onnx",
        "model.onnx",
        "shard-0",
        "trained/checkpoints/c-1/x",
        ".shard-1.tmp",
        "deep/er/y",
    ):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text("left")
    (work / "trained" / "link").symlink_to("/etc/passwd")
    seen: list[str] = []

    def write(path: Path) -> dict[str, Any]:
        seen.extend(sorted(one.relative_to(path).as_posix() for one in path.rglob("*") if not one.is_dir()))
        (path / "model.onnx").write_text("new")
        (path / "stray").write_text("?")
        return {}

    progress = Warned()
    made = build(store, write, files, progress)
    assert seen == ["shard-0", "trained/checkpoints/c-1/x"]
    assert [entry["path"] for entry in made.manifest["files"]] == ["model.onnx", "shard-0"]
    assert sorted(path.name for path in made.path.iterdir()) == ["manifest.json", "model.onnx", "shard-0"]
    assert progress.lines == ["stray is left out: its stage does not declare it"]


def file_stage(name: str) -> Stage:
    """The stage of any graph that is held with this name."""
    return next(stage for graph in golden.built().values() for stage in graph if stage.name == name)


def exported(store: Store, name: str, key: str, content: str) -> Done:
    def write(work: Path) -> dict[str, Any]:
        for file in ("model.gguf",) if "gguf" in name else ("model.onnx", "tokenizer.json", "export.json"):
            (work / file).write_text(content)
        return {}

    artifact = store.build("export", key, {}, {}, 0, write, Warned())
    return Done(file_stage(name), artifact, cached=False)


def test_exports_are_published_as_they_are_made_and_are_not_the_store(tmp_path: Path) -> None:
    store, out = Store(tmp_path / "store"), tmp_path / "out"
    (out / "exports" / "old-onnx-int8").mkdir(parents=True)
    (out / "exports" / "old-onnx-int8" / "model.onnx").write_text("of another recipe")
    exports = directory.Exports(out, "x")
    done = exported(store, "export student/gguf:Q8_0", "a" * 64, "gguf")
    exports.add(done)
    assert sorted(path.name for path in (out / "exports").iterdir()) == ["x-gguf-Q8_0"]
    (entry,) = json.loads((out / "exports.json").read_text())["files"]
    assert (entry["path"], entry["key"], entry["verified"]) == ("exports/x-gguf-Q8_0", "a" * 64, None)
    exports.add(exported(store, "export student/onnx:int8", "b" * 64, "onnx"))
    assert sorted(path.name for path in (out / "exports" / "x-onnx-int8").iterdir()) == [
        "export.json", "model.onnx", "tokenizer.json"]  # fmt: skip
    report = {"gates": [{"model": "student/gguf:Q8_0", "passed": False}], "models": [
        {"id": "student/gguf:Q8_0"}, {"id": "student/onnx:int8"}]}  # fmt: skip
    exports.verified(report)
    assert [one["verified"] for one in json.loads((out / "exports.json").read_text())["files"]] == [False, True]

    # Written over in place: the store's file stays what it was.
    shipped = out / "exports" / "x-gguf-Q8_0" / "model.gguf"
    assert not shipped.samefile(done.artifact.path / "model.gguf")
    with shipped.open("r+") as file:
        file.write("MINE")
    warned: list[str] = []
    assert store.get("export", "a" * 64, warned.append) is not None
    assert warned == []
    # The next run brings the file of the store back.
    again = directory.Exports(out, "x")
    again.add(done)
    assert shipped.read_text() == "gguf"
    assert sorted(path.name for path in (out / "exports").iterdir()) == ["x-gguf-Q8_0"]


def test_a_clone_replaces_a_hard_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    os.link(tmp_path / "a", tmp_path / "b")
    clone(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b").write_text("y")
    assert (tmp_path / "a").read_text() == "x"


RECIPE = "name: x\nteacher: {model: a}\ndata: {source: rows.jsonl}\nstudent: {init: {from: teacher, layers: 1}}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    from tiny import tiny_recipe

    return tiny_recipe(tmp_path)


def refused(*command: str, **environment: str) -> tuple[int, str]:
    shown = CliRunner().invoke(main, list(command), env=environment)
    assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exception
    return shown.exit_code, shown.output


def test_places_that_cannot_be_written_are_refused_at_the_start(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    under = str(tmp_path / "file" / "run")
    code, said = refused("run", "-q", str(recipe), "--store", str(tmp_path / "store"), "--out", under)
    assert (code, "a file stands where the run directory should be" in said, "--out" in said) == (2, True, True)
    for place in (str(tmp_path / "file"), under):
        for command in (("run", "-q", str(recipe), "--out", str(tmp_path / "out")), ("store", "ls"), ("store", "gc")):
            code, said = refused(*command, "--store", place)
            assert (code, "a file stands where the store should be" in said) == (2, True), (command, said)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that nobody can write")
def test_a_store_that_cannot_be_written_is_refused_before_anything_is_made() -> None:
    ran: list[str] = []
    stage = MadeStage("data", lambda work, inputs, progress: ran.append("data") or {})  # type: ignore[func-returns-value]
    with pytest.raises(EnvironmentFault, match="cannot be written") as caught:
        run_stages([stage], Store(Path("/proc/self/store")), SilentProgress())
    assert caught.value.exit_code == 4
    assert ran == []


def test_a_damaged_entry_of_a_store_that_can_only_be_read_is_an_environment_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    made = build(store, lambda work: (work / "x").write_text("x") and {}, Files())

    def refuse(*args: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    (made.path / "x").write_text("other")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        store.get("export", KEY)


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("2048 requested and 360 written"),  # numpy
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_has_its_own_error_whoever_says_it(fault: Exception, tmp_path: Path) -> None:
    def full(work: Path) -> dict[str, Any]:
        raise fault

    with pytest.raises(EnvironmentFault, match="the disk is full"):
        build(Store(tmp_path), full, Files())


def test_too_little_room_is_said_before_anything_is_made(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill2edge.recipe.load import load_recipe
    from distill2edge.running import plan

    loaded, store, progress = load_recipe(recipe), Store(tmp_path / "store"), Warned()
    planned = stages.build_stages(loaded, progress)
    plan.warn_of_room(loaded, planned, store, progress)
    assert progress.lines == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    plan.warn_of_room(loaded, planned, store, progress)
    (line,) = progress.lines
    assert "of disk will be needed, and 1.0 kB are free" in line


def test_a_broken_entry_of_the_store_is_skipped_with_a_line(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in ("a" * 64, "b" * 64, "c" * 64):
        exported(store, "export student/gguf:Q8_0", key, "x")
    (store.path("export", "a" * 64) / "manifest.json").write_text('{"stage": [], "files": 5}')
    shutil.rmtree(store.path("export", "b" * 64))
    store.path("export", "b" * 64).write_text("a file")
    for command in (("ls",), ("gc", "--days", "0")):
        code, said = refused("store", *command, "--store", str(tmp_path))
        assert code == 0
        assert "export/" + "a" * 20 in said
        assert "skipped" in said
        assert "c" * 20 in said


def test_manifests_that_lead_out_of_the_store_are_broken(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    exported(store, "export student/gguf:Q8_0", "a" * 64, "x")
    path = store.path("export", "a" * 64) / "manifest.json"
    manifest = json.loads(path.read_text())
    for outside in ("../../x", "/etc/passwd", "a/../../b", "", "a\0b"):
        manifest["files"][0]["path"] = outside
        path.write_text(json.dumps(manifest))
        assert not list(store.artifacts())


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"5", b"\xff", b"[" * 100_000, b'{"schema_version": 1}', b'{"schema_version": 99}',
     b'{"schema_version": 1, "name": "x", "metric": 5, "models": null}'],
)  # fmt: skip
def test_broken_reports_are_errors_with_their_place(content: bytes, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_bytes(content)
    code, said = refused("compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 2
    assert str(tmp_path / "a" / "report.json") in said.replace("\n", "")


@pytest.mark.parametrize("propagates", [True, False])
def test_the_log_of_a_run_has_what_the_console_says_with_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, propagates: bool
) -> None:
    import logging

    caplog.set_level(logging.WARNING, logger="transformers")  # whoever imported it first may have asked for less
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", propagates)
    with RunLog(tmp_path / "out" / "run.log") as log:
        status = StatusFile(tmp_path / "out" / "status.json", "run")
        progress = LoggedProgress(SilentProgress(), log, tmp_path / "out" / "train.jsonl", status)
        progress.say("waits until the directory is there")
        (tmp_path / "out").mkdir()
        progress.warn("careful \x1b[2J")
        logging.getLogger("transformers").warning("from a library")
        with progress.task("train", 2) as task:
            task.advance(2, "loss 1.0")
        log.ended(UserError("what", fix="the fix"))
    lines = (tmp_path / "out" / "run.log").read_text().splitlines()
    assert [line[21:] for line in lines] == [
        "waits until the directory is there", "warning: careful \\u001b[2J", "transformers: from a library",
        "  train: 2/2  loss 1.0", "--- error: what", "  fix: the fix",
    ]  # fmt: skip
    assert all(line[:4].isdigit() and line[10] == "T" for line in lines)


def test_warnings_of_libraries_stay_off_the_terminal_unless_asked_for() -> None:
    script = (
        "import warnings, logging\nfrom distill2edge.cli.main import main\n"
        "from distill2edge.running import housekeeping\n"
        "def noisy(*a, **k):\n    warnings.warn('from a library'); logging.getLogger('onnx').warning('logged')\n"
        "    return []\n"
        "housekeeping.list_store = noisy\n"
    )
    for more, shown in (("", False), ("'--debug', ", True)):
        found = subprocess.run(
            [sys.executable, "-c", f"{script}main([{more}'store', 'ls'])"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("from a library" in found.stderr, "logged" in found.stderr) == (shown, shown)
