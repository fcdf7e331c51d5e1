"""Training on the grid of a file for encoders and encoder-decoders: what ships decodes to the trained weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import to_array
from safetensors.torch import load_file
from tiny import tiny_bert, tiny_t5

from distill2edge.errors import RecipeErrors
from distill2edge.export.onnx_quantize import dequantize_blocks
from distill2edge.gguf.hf_layout import layout_of, names_to_gguf
from distill2edge.gguf.reader import read_gguf
from distill2edge.quantize import ggml
from distill2edge.quantize.tensor_grids import load_grids
from distill2edge.recipe.load import load_recipe
from distill2edge.running.run_recipe import run
from distill2edge.stages import build_stages
from distill2edge.util.progress import SilentProgress

DATA = """\
name: {name}
task: {task}
teacher: {{model: {root}/{name}}}
data:
  source: {root}/rows.jsonl
  template: plain
  max_length: 32
  splits: {{train: 32, validation: 8, calibration: 8, test: 12}}
  leakage: {{near_duplicate: 1.0}}
student: {{init: {{from: teacher, layers: 1}}, vocabulary: trim, lora: null}}
export: ["gguf:Q4_0", "onnx:int4-b32"]
"""
TRAINING = "schemes: ['gguf:Q4_0', 'onnx:int4-b32'], epochs: 8, learning_rate: 1e-3, batch_size: 8, checkpoints: 1"
RECIPES = {
    "bert": DATA.replace("  source", "  choices: [negative, positive, neutral]\n  source")
    + f"""\
signal: {{{{kind: labels}}}}
distill:
  loss: {{{{forward_kl: 1.0, hidden: 1.0}}}}
  batch_size: 8
  quantization_aware: {{{{{TRAINING}}}}}
quantize: {{{{calibration: gptq}}}}
bench: {{{{workloads: [task]}}}}
""",
    "t5": DATA
    + f"""\
signal: {{{{kind: gold}}}}
distill:
  loss: {{{{ce: 1.0}}}}
  batch_size: 8
  quantization_aware: {{{{{TRAINING}, loss: {{{{forward_kl: 1.0}}}}, signal_from: student}}}}
""",
}
"""Errors compensated, the teacher's layers beside; and nothing calibrated, on the student's own distributions."""
TASKS = {"bert": "classification", "t5": "seq2seq"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("grid")
    tiny_bert(place / "bert")
    tiny_t5(place / "t5", layers=1, hidden=32)
    words, labels = ("the good film", "a bad dog", "music and books"), ("positive", "negative", "neutral")
    rows = [{"prompt": f"{words[n % 3]} and {n} then {n * 37}", "response": labels[n % 3]} for n in range(80)]
    (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in RECIPES.items():
        (place / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        (place / f"{name}.yaml").write_text(text.format(name=name, task=TASKS[name], root=place))
    return place


CASES = [
    ("bert", "gguf:Q4_0"),
    pytest.param(("t5", "onnx:int4-b32"), marks=pytest.mark.slow),
    pytest.param(("bert", "onnx:int4-b32"), marks=pytest.mark.slow),
    pytest.param(("t5", "gguf:Q4_0"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES, ids=str)
def done(root: Path, request: pytest.FixtureRequest) -> tuple[Path, Path, Path]:
    """The stages that merged and trained, and the one that exported."""
    name, scheme = request.param
    changes = [f"export=['{scheme}']", f"distill.quantization_aware.schemes=['{scheme}']"]
    result = run(root / f"{name}.yaml", changes, upto="export", store=root / "store", quiet=True)
    merged, trained = result.of("merge")["merge"], result.of("quantization-aware")[f"quantization-aware {scheme}"]
    return merged.path, trained.path, result.of("export")[f"export student/{scheme}"].path


def test_what_ships_decodes_to_the_weights_that_were_trained(done: tuple[Path, Path, Path]) -> None:
    merged, stage, file = done
    grids, weights = load_grids(stage), load_file(stage / "model/model.safetensors")
    before = load_file(merged / "model/model.safetensors")
    trained = {name: grid.fake_quantized(weights[name]).numpy() for name, grid in grids.items()}
    assert any(not torch.equal(weights[name], before[name]) for name in grids)
    assert json.loads((file / "export.json").read_text())["trained"]
    if (file / "model.gguf").is_file():
        stored = of_gguf(file / "model.gguf", stage / "model")
        assert stored.keys() == trained.keys()
        for name, matrix in stored.items():
            np.testing.assert_array_equal(matrix, trained[name])
    else:
        assert rows_of(of_onnx(file)) == rows_of(trained.values())  # graphs join matrices that read one input


def test_the_loss_of_the_stored_weights_falls(done: tuple[Path, Path, Path]) -> None:
    record = json.loads((done[1] / "train.json").read_text())
    assert record["log"][-1]["loss"] < record["log"][0]["loss"]


def rows_of(matrices: Iterable[np.ndarray]) -> set[bytes]:
    return {row.tobytes() for matrix in matrices for row in matrix}


def of_gguf(path: Path, model_dir: Path) -> dict[str, np.ndarray]:
    """Weight -> the matrix that llama.cpp reads, in the order of the Hugging Face rows; quantized ones alone."""
    file, layout, found = read_gguf(path), layout_of(model_dir), {}
    for source, name in names_to_gguf(model_dir).items():
        info = file.tensors.get(name)
        if info is None or len(info.shape) < 2 or info.size >= 2 * info.elements:
            continue
        raw = np.fromfile(path, np.uint8, info.size, offset=info.offset).reshape(info.shape[0], -1)
        kind = "Q4_0" if info.size * 32 == info.elements * 18 else "Q8_0"
        found.setdefault(name, (source, layout.to_hf(name, ggml.dequantize(raw, kind, info.shape[1]))))
    return dict(found.values())


def of_onnx(directory: Path) -> list[np.ndarray]:
    """The matrices that ONNX Runtime reads from blocks of 4 bits."""
    found = []
    for path in sorted(directory.glob("*.onnx")):
        model = onnx.load(path)
        parts = {each.name: each for each in model.graph.initializer}
        widths = {
            node.input[1]: next(a.i for a in node.attribute if a.name == "K")
            for node in model.graph.node
            if node.op_type == "MatMulNBits"
        }
        for name in [name for name in parts if name.endswith(".int4-b32")]:
            packed = to_array(parts[name], base_dir=str(directory))
            scales = to_array(parts[name.replace(".int4-b32", ".scales")], base_dir=str(directory))
            width = widths.get(name, packed.shape[1] * 32)
            found.append(dequantize_blocks(packed, scales.reshape(len(packed), -1), width, 4))
    return found


OTHERS = {
    "embedding": ["signal={kind: embeddings}", "distill.loss={embedding: 1}", "data.choices=null"],
    "regression": ["signal={kind: numbers}", "distill.loss={teacher_mse: 1}", "data.choices=null"],
    "token-classification": [],
    "multi-label": ["task=classification", "data.multi=true"],
}


@pytest.mark.parametrize("task", list(OTHERS))
def test_every_task_of_encoders_is_trained_on_the_grid_of_its_files(root: Path, task: str) -> None:
    changes = [f"task={task}", "export=['onnx:int4-b32']", "distill.quantization_aware=onnx:int4-b32", *OTHERS[task]]
    recipe = load_recipe(root / "bert.yaml", [*changes, "quantize.calibration=none"])
    assert "quantization-aware onnx:int4-b32" in {stage.name for stage in build_stages(recipe, SilentProgress())}


@pytest.mark.parametrize(
    ("name", "loss", "said"),
    [
        ("bert", "{embedding: 1}", "a loss on embeddings is for task embedding"),
        ("bert", "{emd: 1}", "set data.ordered: true"),
        ("t5", "{hidden: 1}", "a loss on hidden states or attention is for"),
        ("t5", "{ce: 1}", "no term to serve"),
    ],
)
def test_a_loss_that_the_task_does_not_have_is_refused_on_a_grid_too(
    root: Path, name: str, loss: str, said: str
) -> None:
    with pytest.raises(RecipeErrors, match=said):
        load_recipe(root / f"{name}.yaml", [f"distill.quantization_aware.loss={loss}"])
