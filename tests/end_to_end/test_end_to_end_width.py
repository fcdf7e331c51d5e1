"""A narrower student, the whole path: pruned, trained with an adapter, merged, written as ONNX and GGUF, verified; and
a still narrower one made of its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import tiny_recipe

import distill2edge as d2e

WIDTH = {"kv_groups": 1, "feed_forward": 96, "hidden": 32}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    path = tiny_recipe(root)
    recipe = yaml.safe_load(path.read_text())
    recipe["student"]["init"] |= {"layers": 2, "width": WIDTH}
    recipe["export"] = ["onnx:int8", "gguf:Q8_0", "gguf:F16"]
    recipe["bench"] = {"workloads": ["task"], "rounds": 1, "requests": 1, "torch": False}
    path.write_text(yaml.safe_dump(recipe))
    d2e.run(path, store=root / "store", out=root / "out", quiet=True)
    return root


def report(root: Path) -> Any:
    return json.loads((root / "out" / "report.json").read_text())


def test_every_file_of_a_narrower_student_follows_it(finished: Path) -> None:
    found = report(finished)
    files = {model["id"]: model for model in found["models"]}
    assert [files[f"student/{scheme}"]["error"] for scheme in ("onnx:int8", "gguf:Q8_0", "gguf:F16")] == [None] * 3
    assert files["student/gguf:F16"]["kl_student"]["value"] < 1e-3
    assert files["student/gguf:Q8_0"]["kl_student"]["value"] < 0.05
    assert files["student/onnx:int8"]["kl_student"]["value"] < 0.05
    assert files["student"]["parameters"] < files["teacher"]["parameters"] / 2
    assert {name: found["student"]["width"][name]["kept"] for name in WIDTH} == WIDTH
    assert "1 of 2" in (finished / "out" / "report.md").read_text()


def test_the_plan_knew_its_size(finished: Path) -> None:
    (finished / "elsewhere").mkdir(exist_ok=True)
    planned = d2e.plan(finished / "tiny.yaml", store=finished / "elsewhere" / "store", quiet=True)
    true = report(finished)["student"]["parameters"]
    assert planned.basis["student_parameters"] == pytest.approx(true, rel=0.03)
    assert f"student {planned.basis['student_parameters']:,}" in str(planned)


def test_a_student_is_pruned_again(finished: Path) -> None:
    """Prune, distil, prune: the next student starts from the file of the one before."""
    earlier = next((finished / "out" / "exports").glob("*-gguf-F16"))
    init = {"model": str(earlier), "layers": 1, "width": {"feed_forward": 64}}
    again = d2e.run(
        finished / "tiny.yaml", {"student.init": init}, upto="student", store=finished / "store",
        out=finished / "again", quiet=True,
    )  # fmt: skip
    facts = again.artifacts["student"].document("student.json")
    assert facts["width"]["feed_forward"] == {"kept": 64, "of": 96}
    assert facts["parameters"] < report(finished)["student"]["parameters"]
    config = json.loads((again.artifacts["student"].path / "model" / "config.json").read_text())
    assert [config[name] for name in ("hidden_size", "head_dim", "num_hidden_layers")] == [32, 16, 1]
