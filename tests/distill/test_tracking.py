"""A run's losses while it goes on: train.jsonl always, a tracker where one is named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import tiny_recipe

from distill2edge.cli.main import main


def test_every_training_of_a_run_is_written_and_tracked(tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = tiny_recipe(tmp_path, "tracked")
    run = tmp_path / "run"
    done = CliRunner().invoke(
        main,
        ["run", str(recipe), "--store", str(tmp_path / "store"), "--out", str(run), "--track", "tensorboard", "-q"],
    )
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (run / "train.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["stage"] == "distill"]
    losses = {line["step"]: line["loss"] for line in trained if "loss" in line}
    assert len(losses) > 2
    assert [line for line in trained if "eval_loss" in line]
    assert all({"time", "step"} <= line.keys() for line in lines)

    seen = accumulators.EventAccumulator(str(run / "tensorboard" / "distill")).Reload()
    tracked = {event.step: event.value for event in seen.Scalars("train/loss")}
    assert tracked == pytest.approx(losses, rel=1e-5)


def test_a_tracker_that_is_missing_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    recipe = tiny_recipe(tmp_path, "tracked")
    arguments = ["run", str(recipe), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*arguments, "--track", "wandb"])
    assert done.exit_code == 4
    assert "distill2edge[wandb]" in done.stderr
    assert not (tmp_path / "store").exists()
