"""A recipe with quantization-aware training: the trained file ships, those it is compared with stand beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import tiny_recipe

from distill2edge.cli import main
from distill2edge.errors import UserError
from distill2edge.recipe.load import parse_recipe

MORE = (
    "--set", 'export=["gguf:Q4_0", "onnx:int4-b32", "gguf:Q8_0"]',
    "--set", 'distill.quantization_aware={"schemes": ["gguf:Q4_0", "onnx:int4-b32"], "epochs": 4, "checkpoints": 1}',
    "--set", "quantize.calibration=imatrix",
    "--set", "quantize.compare=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    tiny_recipe(root)
    arguments = ["run", str(root / "tiny.yaml"), "--store", str(root / "store"), "--out", str(root / "out"), *MORE]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return root / "out"


def test_plain_calibrated_and_trained_are_measured_side_by_side(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    models = {model["id"]: model for model in report["models"]}
    arms = ("", "-untrained", "-plain")
    assert {f"student/gguf:Q4_0{arm}" for arm in arms} <= set(models)
    assert "student/onnx:int4-b32-untrained" in models
    assert "student/gguf:Q8_0-untrained" not in models
    sizes = {models[f"student/gguf:Q4_0{arm}"]["size_bytes"] for arm in arms}
    assert max(sizes) - min(sizes) < 2000  # metadata
    for name in ("student/gguf:Q4_0", "student/onnx:int4-b32"):
        assert models[name]["kl_student"]["value"] < models[f"{name}-untrained"]["kl_student"]["value"]
    held = {gate["model"] for gate in report["gates"]}
    assert not any(name.endswith(("-plain", "-untrained")) for name in held)


def test_the_exports_say_whether_they_were_trained(out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    trained = {item["model"]: item["trained"] for item in report["files"]}
    assert trained["student/gguf:Q4_0"]
    assert not trained["student/gguf:Q4_0-untrained"]
    table = (out / "report.md").read_text().partition("training on the grid bring**")[2].splitlines()
    arms = [line.split(" | ")[1] for line in table if line.startswith("| `gguf:Q4_0` | ")]
    assert arms[:3] == ["plain", "calibrated", "trained (ships)"]


RECIPE = """\
name: q
teacher: {{model: owner/teacher}}
data: {{source: rows.jsonl}}
student: {{init: {{from: teacher, layers: 2}}}}
distill: {{quantization_aware: {value}}}
export: [gguf:Q4_0, gguf:F16, gguf:Q4_K_M]
"""


def test_a_scheme_alone_takes_the_defaults() -> None:
    section = parse_recipe(RECIPE.format(value="gguf:Q4_0"), "q.yaml").distill.quantization_aware
    assert section is not None
    assert section.schemes == ("gguf:Q4_0",)
    assert section.lora is None


def test_a_mixture_of_k_quants_has_a_grid_to_train_on() -> None:
    recipe = parse_recipe(RECIPE.format(value="gguf:Q4_K_M"), "q.yaml")
    assert "gguf:Q4_K_M-untrained" in map(str, recipe.schemes)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("gguf:IQ4_NL", "is trained for, but not exported"),
        ("gguf:F16", "no grid to train on"),
        ("gguf:Q3_K_M", "no grid to train on"),
        ("gguf:Q4_9", "unknown scheme"),
        ("{schemes: [gguf:Q4_0, gguf:Q4_0]}", "names a scheme twice"),
        ("{schemes: [gguf:Q4_0], lora: {dropout: 0.1}}", "no place on a grid"),
    ],
)
def test_what_cannot_be_trained_is_refused_when_the_recipe_is_read(value: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_recipe(RECIPE.format(value=value), "q.yaml")
