"""A folder with runs of every state, as `distill2edge run` leaves them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import report_fixtures as made

from distill2edge.running.status import FILE, StatusFile
from distill2edge.util.files import write_json

EVIL = "<img src=x onerror=alert(1)>"


def write_run(place: Path, document: dict[str, Any], files: tuple[str, ...] = (), age: float = 60.0) -> Path:
    """A finished run: report, log, and files that no runtime opens."""
    place.mkdir(parents=True)
    write_json(place / "report.json", document)
    (place / "run.log").write_text("2026-11-30T10:00:00  --- x: run\n2026-11-30T10:01:00  --- done\n")
    entries = []
    for scheme in files:
        folder = place / "exports" / f"{place.name}-{scheme.replace(':', '-')}"
        folder.mkdir(parents=True)
        (folder / "model.gguf").write_bytes(b"GGUF" + bytes(1000))
        entries.append(
            {"model": f"student/{scheme}", "path": f"exports/{folder.name}", "verified": scheme != "gguf:Q4_0"}
        )
    write_json(place / "exports.json", {"schema_version": 1, "files": entries})
    for path in place.iterdir():
        os.utime(path, (time.time() - age, time.time() - age))
    return place


def running(place: Path) -> Path:
    """A run at work: of this process, in its training."""
    place.mkdir(parents=True)
    status = StatusFile(place / FILE, "run")
    status.planned(["data", "teacher", "signal", "student", "distill", "report"], None)
    status.stage("distill")
    status.task("distilling", 40, 40, "loss 1.9")  # the last word of a task is always written
    rows: list[dict[str, Any]] = [{"stage": "signal", "step": 1, "loss": 9.0}]
    rows += [{"stage": "distill", "step": step, "loss": 3.0 - step / 20} for step in range(1, 41)]
    rows += [{"stage": "distill", "step": step, "eval_loss": 3.1 - step / 20} for step in (20, 40)]
    rows.sort(key=lambda row: (row["stage"] != "signal", row["step"]))
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half')
    (place / "run.log").write_text(f"2026-11-30T10:00:00  --- x: run\n2026-11-30T10:01:00  {EVIL} \x1b[2J\n")
    return place


def of_task(task: str, metric: str) -> dict[str, Any]:
    """A report of another task."""
    document = made.report()
    document["reproduce"]["recipe"]["task"] = task
    document["metric"]["name"] = metric
    return document


def write_folder(root: Path) -> Path:
    """One run of each state, and what else may lie in such a folder."""
    place = root / "runs"
    write_run(place / "quickstart", made.report(), ("gguf:Q8_0", "gguf:Q4_0"), age=60)
    write_run(place / "smaller", made.report(passing=False), ("gguf:Q4_0",), age=7200)
    write_run(place / "group" / "vectors", of_task("embedding", "recall_at_10"), age=90000)
    running(place / "live")
    killed = running(place / "killed") / FILE
    killed.write_text(json.dumps({**json.loads(killed.read_text()), "pid_started": 5.0}))
    (place / "stopped").mkdir()
    (place / "stopped" / "run.log").write_text(
        "2026-11-30T10:00:00  --- x: run\n2026-11-30T10:00:09  --- stopped: by you\n"
    )
    (place / "failed").mkdir()
    failed = StatusFile(place / "failed" / FILE, "run")
    failed.planned(["data"], None)
    failed.ended("failed", f"no such file {EVIL}")
    (place / "no-json").mkdir()
    (place / "no-json" / "report.json").write_text("{")
    write_run(place / "damaged", {**made.report(), "pareto": {}, "student": []})
    inside = write_run(place / "inside", made.report())
    write_json(inside / "report.json", {**made.report(), "training": "none"})
    (place / "linked").mkdir()
    (place / "linked" / "report.json").symlink_to("/etc/hostname")
    write_run(root / "outside", made.report())
    (place / "leads-out").symlink_to(root / "outside")
    write_run(place / EVIL, made.hostile(made.report(), EVIL))
    (place / "notes").mkdir()
    (place / "notes" / "todo.txt").write_text("no run")
    (place / ".hidden").mkdir()
    write_json(place / ".hidden" / "report.json", {})
    return place
