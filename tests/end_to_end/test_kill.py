"""`kill -9` in every stage of a real run: the next run goes on, and ends with the weights of a run left alone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import tiny_recipe

from distill2edge.pipeline.store import Store

STAGES = (
    "data",
    "teacher",
    "signal",
    "student",
    "distill",
    "merge",
    "export student/onnx:int8",
    "export student/gguf:Q8_0",
    "verify",
    "bench",
    "report",
)


def start(recipe: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "distill2edge", "run", str(recipe), "--store", str(store)]
    return subprocess.Popen(
        [*command, "--out", str(recipe.parent / "out")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill_in(stage: str, recipe: Path, store: Path) -> list[str]:
    """Start a run, end it without warning while it is in a stage; returns the lines that it wrote before."""
    process, lines = start(recipe, store), []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line.strip())
        if re.fullmatch(rf"\[\d+/\d+\] {re.escape(stage)}", lines[-1]):
            partial, deadline = store / "partial", time.monotonic() + 5
            label = f"{stage.split()[0]}-*/*"
            while not any(partial.glob(label)) and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            break
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL, "\n".join(lines)
    return lines


def weights(store: Path) -> dict[str, set[str]]:
    """Hashes of the files whose bytes a recipe fixes: the merged model and the exports."""
    return {
        kind: {
            entry["sha256"]
            for artifact in Store(store).artifacts()
            if artifact.manifest["stage"] == kind
            for entry in artifact.manifest["files"]
            if entry["path"].endswith((".safetensors", ".gguf", ".onnx", ".data"))
        }
        for kind in ("merge", "export")
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_kill_in_any_stage_loses_no_finished_stage(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    store = tmp_path / "store"
    for number, stage in enumerate(STAGES):
        lines = kill_in(stage, recipe, store)
        reused = [line for line in lines if line.endswith(": reused")]
        # All but the stage that was killed before, which is made again.
        assert len(reused) == max(number - 1, 0), "\n".join(lines)
    last = start(recipe, store)
    _, text = last.communicate(timeout=600)
    assert last.returncode == 0, text
    assert text.count(": reused") == len(STAGES) - 1
    assert not Store(store).partials()

    alone = start(recipe, tmp_path / "alone")
    _, text = alone.communicate(timeout=600)
    assert alone.returncode == 0, text
    assert weights(store) == weights(tmp_path / "alone")
    assert all(weights(store).values())
