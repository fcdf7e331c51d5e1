"""A recipe with quantization-aware training: the trained file ships, those it is compared with stand beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny import tiny_recipe

from distill2edge.cli.main import main
from distill2edge.errors import UserError
from distill2edge.export.initial_weights import write_initial_weights
from distill2edge.export.onnx import export_onnx
from distill2edge.gguf.hf_layout import layout_of, names_to_gguf
from distill2edge.gguf.reader import read_gguf
from distill2edge.quantize.calibrate import read_calibration
from distill2edge.quantize.schemes import parse_bytes, parse_scheme
from distill2edge.quantize.tensor_grids import of_gguf
from distill2edge.recipe.load import parse_recipe
from distill2edge.util.progress import SilentProgress

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
    table = (out / "report.md").read_text().partition("quantization-aware training gain**")[2].splitlines()
    arms = [line.split(" | ")[1] for line in table if line.startswith("| `gguf:Q4_0` | ")]
    assert arms[:3] == ["plain", "calibrated", "trained (ships)"]


@pytest.mark.slow
def test_a_student_taught_by_text_is_trained_to_keep_its_own_distributions(tmp_path: Path) -> None:
    tiny_recipe(tmp_path)
    section = "{schemes: ['gguf:Q4_0'], loss: {forward_kl: 1}, signal_from: student, epochs: 4, learning_rate: 1e-3}"
    more = (
        "--set", "signal={kind: text, max_new_tokens: 64, temperature: 1, samples: 4}",
        "--set", "distill.loss={ce: 1}",
        "--set", f"distill.quantization_aware={section}",
        "--set", "export=['gguf:Q4_0']",
        "--set", "verify.positions=all",
    )  # fmt: skip
    arguments = [str(tmp_path / "tiny.yaml"), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), *more]
    result = CliRunner().invoke(main, ["run", *arguments])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out/report.json").read_text())
    kl = {model["id"]: (model["kl_student"] or {}).get("value") for model in report["models"]}
    assert kl["student/gguf:Q4_0"] < kl["student/gguf:Q4_0-untrained"]
    assert "signal student" in {stage["stage"] for stage in report["stages"]}


COMPENSATED = ("gguf:Q4_0", "onnx:int4-b32", "gguf:mix-60kB", "onnx:mix-100kB")
LIMITS = "{format: gguf, budget: 60kB}, {format: onnx, budget: 100kB}"
GPTQ = (
    "--set", f"export=['gguf:Q4_0', 'onnx:int4-b32', {LIMITS}]",
    "--set", "distill.quantization_aware={schemes: ['gguf:Q4_0', 'onnx:int4-b32', 'gguf:mix-60kB', "
    "{format: onnx, budget: 100kB}], epochs: 2, learning_rate: 1e-3, checkpoints: 1}",
    "--set", "quantize={calibration: gptq, compare: true}",
    "--set", "verify.positions=all",
)  # fmt: skip


@pytest.fixture(scope="module")
def compensated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compensated")
    tiny_recipe(root)
    arguments = ["run", str(root / "tiny.yaml"), "--store", str(root / "store"), "--out", str(root / "out"), *GPTQ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return root


@pytest.mark.parametrize("scheme", ["gguf:Q4_0", "onnx:int4-b32"])
def test_compensated_rounding_is_nearer_to_the_student_than_plain(compensated: Path, scheme: str) -> None:
    report = json.loads((compensated / "out/report.json").read_text())
    kl = {model["id"]: (model["kl_student"] or {}).get("value") for model in report["models"]}
    files = {item["model"]: item for item in report["files"]}
    assert kl[f"student/{scheme}-untrained"] < kl[f"student/{scheme}-plain"]
    assert files[f"student/{scheme}-untrained"]["calibration"] == "gptq"
    assert not files[f"student/{scheme}-plain"]["calibration"]
    table = (compensated / "out/report.md").read_text().partition("quantization-aware training gain**")[2].splitlines()
    arms = [line.split(" | ")[1] for line in table if line.startswith(f"| `{scheme}` | ")]
    assert arms[:3] == ["plain", "calibrated", "trained (ships)"]


@pytest.mark.parametrize("scheme", COMPENSATED)
def test_it_is_trained_in_the_types_and_bytes_of_its_untrained_file(compensated: Path, scheme: str) -> None:
    report = json.loads((compensated / "out/report.json").read_text())
    files = {item["model"]: item for item in report["files"]}
    models = {model["id"]: model for model in report["models"]}
    after, before = files[f"student/{scheme}"], files[f"student/{scheme}-untrained"]
    assert after["trained"]
    assert not before["trained"]
    assert after.get("mix", {}).get("types") == before.get("mix", {}).get("types")
    norms = {"fp32": None, "F32": None}  # alike before the training, an ONNX file has them once
    assert after["types"] | norms == before["types"] | norms
    assert abs(after["size_bytes"] - before["size_bytes"]) < 1000
    if "mix" in scheme:
        assert before["size_bytes"] <= parse_bytes(scheme.partition("mix-")[2])
    kl = [models[f"student/{scheme}{arm}"]["kl_student"]["value"] for arm in ("", "-untrained")]
    assert kl[0] != kl[1]


@pytest.mark.parametrize("scheme", COMPENSATED)
def test_it_is_trained_from_the_very_weights_of_its_untrained_file(
    compensated: Path, scheme: str, tmp_path: Path
) -> None:
    name = f'{scheme.partition(":")[2]}-untrained"'
    exported = one(compensated, "export", "export.json", lambda text: name in text)
    merged = one(compensated, "merge", "model/config.json", lambda _: True) / "model"
    known = read_calibration(one(compensated, "calibration", "calibration.json", lambda _: True))
    grids = write_initial_weights(parse_scheme(scheme), known, merged, tmp_path, SilentProgress(), exported)
    weights = load_file(tmp_path / "model.safetensors")
    if scheme.startswith("gguf"):
        of_file = of_gguf(exported / "model.gguf", layout_of(merged))
        assert of_file.keys() == grids.keys()
        for name, grid in of_file.items():
            assert torch.equal(grid.fake_quantized(weights[name]), grids[name].fake_quantized(weights[name]))
            assert grid.gguf(weights[name]).tobytes() == stored_bytes(exported / "model.gguf", merged, name)
        return
    again = export_onnx(
        tmp_path, parse_scheme(scheme), {"name": "again"}, tmp_path / "onnx", SilentProgress(), grid=tmp_path
    )
    assert again["types"] == json.loads((exported / "export.json").read_text())["types"]
    assert (tmp_path / "onnx/model.onnx.data").read_bytes() == (exported / "model.onnx.data").read_bytes()


def one(root: Path, kind: str, file: str, wanted: Callable[[str], bool]) -> Path:
    """The only artifact of a kind in the store, by a file of it."""
    found = [
        path
        for path in (root / "store" / kind).iterdir()
        if (path / file).is_file() and wanted((path / file).read_text())
    ]
    (path,) = found
    return path


def stored_bytes(path: Path, model_dir: Path, name: str) -> bytes:
    """A tensor's bytes in a GGUF, in the order of the Hugging Face rows."""
    file = read_gguf(path)
    ours = names_to_gguf(model_dir)[name]
    info = file.tensors[ours]
    raw = np.frombuffer(path.read_bytes()[info.offset : info.offset + info.size], np.uint8).reshape(info.shape[0], -1)
    return layout_of(model_dir).to_hf(ours, raw).tobytes()


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
        ("{format: gguf, budget: 90MB}", "is trained for, but not exported"),
        ("{schemes: [gguf:Q4_0, gguf:Q4_0]}", "names a scheme twice"),
        ("{schemes: [gguf:Q4_0], lora: {dropout: 0.1}}", "no place on a grid"),
        ("{schemes: [gguf:Q4_0], loss: {ce: 1}, signal_from: student}", "no term to serve"),
    ],
)
def test_what_cannot_be_trained_is_refused_when_the_recipe_is_read(value: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_recipe(RECIPE.format(value=value), "q.yaml")
