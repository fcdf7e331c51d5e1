"""The plan: what it reckons with, what it does not know, and that it is quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from light import loads
from tiny import tiny_llama

from distill2edge.pipeline.store import Store
from distill2edge.planning.costs import Work
from distill2edge.planning.sizes import UNLABELLED, Model, Sizes, sizes_of
from distill2edge.planning.speed import machine_speed
from distill2edge.recipe.load import load_recipe
from distill2edge.running.plan import plan_of
from distill2edge.util.progress import SilentProgress
from distill2edge.util.remembered import CACHE_VARIABLE

ROOT = Path(__file__).parents[2]
RECIPE = """\
name: x
teacher: {model: teacher}
data: {source: rows.jsonl, template: plain, splits: {validation: 4, calibration: 4, test: 8}, max_length: 64}
student: {init: {from: teacher, layers: 1}}
distill: {epochs: 4, batch_size: 4}
export: [gguf:Q8_0]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_llama(tmp_path / "teacher", layers=2)
    rows = [{"prompt": f"Review: film {n}", "response": " good"} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def plan(place: Path, *overrides: str, speed: float = 1e9) -> dict[str, Any]:
    recipe = load_recipe(place / "r.yaml", overrides)
    return plan_of(recipe, Store(place / "store"), SilentProgress(), speed=speed).as_json()


def row(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(each for each in found["stages"] if each["stage"] == name)


def test_rows_and_tokens_are_those_of_the_file(place: Path) -> None:
    basis = plan(place)["basis"]
    assert basis["rows_from"] == "file"
    assert basis["train_rows"] == 60 - 16
    assert 4 <= basis["tokens_per_row"] <= 20


def test_tokens_are_counted_once_the_data_is_there(place: Path) -> None:
    from distill2edge.stages import build_stages

    recipe = load_recipe(place / "r.yaml")
    store = Store(place / "store")
    from distill2edge.pipeline.run_stages import run_stages, upto

    done = run_stages(upto(build_stages(recipe, SilentProgress()), "data"), store, SilentProgress())
    basis = plan(place)["basis"]
    assert basis["rows_known"]
    assert basis["train_rows"] == done[0].artifact.facts["splits"]["train"]["rows"]


def test_a_limit_of_steps_counts(place: Path) -> None:
    whole, short = plan(place), plan(place, "distill.max_steps=2")
    assert row(short, "distill")["seconds"] < row(whole, "distill")["seconds"]
    assert plan(place, "distill.max_steps=100000")["seconds"] == whole["seconds"]


def test_training_every_weight_holds_its_gradient_and_moments(place: Path) -> None:
    parameters = plan(place)["basis"]["student_parameters"]
    adapters = row(plan(place, "student.lora={rank: 1}"), "distill")["memory_bytes"]
    every = row(plan(place, "student.lora=null"), "distill")["memory_bytes"]
    assert every - adapters > 10 * parameters


def test_stored_types_count_on_the_disk(place: Path) -> None:
    before = row(plan(place), "teacher")["disk_bytes"]
    import torch
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(place / "teacher", dtype=torch.bfloat16).save_pretrained(place / "teacher")
    assert row(plan(place), "teacher")["disk_bytes"] == pytest.approx(before / 2, rel=0.05)


def test_files_cost_by_their_size_and_rounding(place: Path) -> None:
    recipe = "export=[gguf:Q8_0, gguf:Q4_0]"
    plain = plan(place, recipe)
    assert (
        0 < row(plain, "export student/gguf:Q4_0")["disk_bytes"] < row(plain, "export student/gguf:Q8_0")["disk_bytes"]
    )
    calibrated = plan(place, recipe, "quantize.calibration=gptq")
    name = "export student/gguf:Q4_0"
    assert row(calibrated, name)["seconds"] > row(plain, name)["seconds"]


def test_what_is_not_known_is_unknown_and_not_zero(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import distill2edge.planning.sizes as module

    monkeypatch.setattr(module, "_at_a_glance", lambda model, revision: None)
    found = plan_of(load_recipe(place / "r.yaml"), Store(place / "store"), SilentProgress(), speed=1e9)
    assert row(found.as_json(), "distill")["seconds"] is None
    shown = str(found)
    assert "unknown" in next(line for line in shown.splitlines() if line.startswith("distill"))
    assert "the teacher is not here yet" in shown


def test_a_busy_machine_is_said(place: Path) -> None:
    recipe = load_recipe(place / "r.yaml")
    found = plan_of(recipe, Store(place / "store"), SilentProgress(), speed=1e9, share=0.3)
    assert "the machine is busy: a process gets 30% of a core" in str(found)
    assert found.seconds > plan(place)["seconds"]


def test_a_plan_says_what_evaluation_takes_beside_a_small_training(place: Path) -> None:
    shown = lambda *overrides: str(plan_of(  # noqa: E731
        load_recipe(place / "r.yaml", overrides), Store(place / "store"), SilentProgress(), speed=1e9
    ))  # fmt: skip
    assert plan(place)["basis"]["evaluation"] == {"times": 5, "rows": 4, "share": 5 * 4 * 2 / (44 * 4 * 4)}
    assert "evaluation of the student: 5 x 4 validation rows, about 6% of its training's work\n" in shown()
    much = shown("distill.epochs=1", "data.splits.validation=20")
    assert "5 x 20 validation rows, about 179% of its training's work; lower distill.checkpoints" in much
    assert "evaluation of" not in shown("data.splits.validation=0")


def test_the_speed_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    speed = machine_speed()
    assert speed > 1e8
    kept = json.loads((tmp_path / "speed.json").read_text())
    (tmp_path / "speed.json").write_text(json.dumps(kept | {"flops": 123.0}))
    assert machine_speed() == 123.0
    (tmp_path / "speed.json").write_text("damaged")
    assert machine_speed() > 1e8


def test_a_first_plan_loads_no_heavy_library(place: Path) -> None:
    machine_speed()
    assert loads("plan", place / "r.yaml", "--store", place / "store") == []


def test_every_recipe_of_the_repository_has_sizes() -> None:
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        sizes = sizes_of(load_recipe(path), {})
        assert sizes.tokens > 0
        assert sizes.train > 0


def test_a_training_on_the_data_s_own_labels_is_planned_on_the_labelled_rows(place: Path) -> None:
    """A fitted teacher and a control learn from rows that have a response; the student from all."""
    recipe = load_recipe(place / "r.yaml")
    model = Model(1_000_000, 10_000, 2, 64, 100)
    rows = {"train": 1000, "validation": 8, "calibration": 4, "test": 8}

    def seconds(rows: dict[str, int], **how: bool) -> float | None:
        sizes = Sizes(model, model, rows, 20.0, 5.0, "data")
        return Work(recipe, sizes, 1e6, model).trained(recipe.distill, None, **how).seconds

    mixed = {**rows, UNLABELLED: 900}
    assert seconds(mixed) == seconds(rows)
    assert seconds(mixed, labelled=True) == seconds({**rows, "train": 100})
    assert seconds(rows, labelled=True) == seconds(rows)
