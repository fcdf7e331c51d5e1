"""Randomly initialised models: written from a seed, exported like any other, and refused where they could not learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from distill2edge.cli.main import main
from distill2edge.data.examples import Row
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.intake.random_models import materialise_scratch
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.scratch import Scratch, ScratchTeacher
from distill2edge.util.progress import SilentProgress

ROWS = [Row(str(n), f"say {n} in words please", f" number {n * 37} it is") for n in range(60)]
LLAMA = "{architecture: llama, layers: 2, hidden: 32, heads: 2, vocabulary: 320}"
RECIPE = """\
name: made
teacher:
  model: {model}
  fit: {fit}
data:
  source: {rows}
  template: plain
  max_length: 64
  splits: {{train: 40, validation: 8, calibration: 4, test: 8}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: logits, top_k: 16}}
student: {student}
distill: {{loss: {{ce: 0.5, forward_kl: 0.5}}, learning_rate: 1e-2, batch_size: 8}}
export: [onnx:int8, gguf:Q8_0]
verify: {{rows: 8}}
bench: {{workloads: [task], rounds: 1, requests: 1}}
"""
FIT = "{lora: null, epochs: 2, learning_rate: 1e-2, batch_size: 8}"
STUDENT = "{init: {model: {architecture: llama, layers: 1, hidden: 32, heads: 2}}, lora: null}"


def make(work: Path, model: ScratchTeacher, *, seed: int = 0, licence: str | None = None) -> dict[str, object]:
    return materialise_scratch(
        model, ROWS, work, SilentProgress(), licence=licence, accept_licence=None, max_length=64, seed=seed
    )


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_the_same_seed_makes_the_same_files(tmp_path: Path, architecture: str) -> None:
    model = ScratchTeacher(architecture=architecture, layers=2, hidden=32, heads=2, vocabulary=320)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(tmp_path / name, model, seed=seed)
    files = {
        name: {path.name: path.read_bytes() for path in (tmp_path / name / "model").iterdir()}
        for name in ("a", "b", "c")
    }
    assert files["a"] == files["b"]
    assert files["a"]["tokenizer.json"] == files["c"]["tokenizer.json"]
    assert files["a"]["model.safetensors"] != files["c"]["model.safetensors"]


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_the_tokenizer_reads_back_any_text_digit_by_digit(tmp_path: Path, architecture: str) -> None:
    from transformers import AutoTokenizer

    facts = make(tmp_path, ScratchTeacher(architecture=architecture, layers=1, hidden=32, heads=2, vocabulary=320))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    for text in ("say 1999 in words", "  naïve 你好 🙂\n\tend"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    ids = tokenizer("1999", add_special_tokens=False).input_ids
    assert len(ids) == 4
    assert (facts["pad"], facts["eos"]) == (0, 1)
    assert (tokenizer("a").input_ids[-1] == 1) == (architecture == "t5")


def test_the_gate_permits_own_weights_and_says_why(tmp_path: Path) -> None:
    model = ScratchTeacher(architecture="llama", layers=1, hidden=32, heads=2, vocabulary=320)
    licence = make(tmp_path, model)["licence"]
    assert isinstance(licence, dict)
    assert licence["verdict"] == "permit"
    assert "no other model's weights" in licence["clause"]
    with pytest.raises(UserError, match="does not permit"):
        make(tmp_path, model, licence="llama2")


def recipe(**changes: str) -> str:
    return RECIPE.format(**{"model": LLAMA, "fit": FIT, "rows": "rows.jsonl", "student": STUDENT} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fit": "null"}, "add teacher.fit"),
        ({"fit": "{max_steps: 3}"}, "set teacher.fit.lora: null"),
        ({"student": STUDENT.replace(", lora: null", "")}, "set student.lora: null"),
        ({"student": STUDENT.replace("heads: 2", "heads: 2, vocabulary: 300")}, "unknown key 'vocabulary'"),
        ({"model": LLAMA.replace("heads: 2", "heads: 3")}, "multiple of twice the heads"),
        ({"model": LLAMA.replace("llama", "bert")}, "is not one of 'llama' or 't5'"),
    ],
)
def test_what_could_not_learn_is_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(recipe(**changes), "made.yaml")
    assert said in str(caught.value)
    assert "made.yaml:" in str(caught.value)


def test_the_feed_forward_defaults_to_eight_thirds() -> None:
    assert Scratch(architecture="llama", layers=1, hidden=96, heads=2).width == 256
    assert Scratch(architecture="llama", layers=1, hidden=64, heads=2).width == 192
    assert Scratch(architecture="llama", layers=1, hidden=64, heads=2, intermediate=100).width == 100


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    lines = [json.dumps({"prompt": row.prompt, "response": row.response}) for row in ROWS]
    (root / "rows.jsonl").write_text("\n".join(lines) + "\n")
    (root / "made.yaml").write_text(recipe(rows=str(root / "rows.jsonl")))
    return root


def run(root: Path, command: str, *more: str) -> Result:
    return CliRunner().invoke(main, [command, str(root / "made.yaml"), "--store", str(root / "store"), *more])


@pytest.mark.slow
def test_a_run_from_nothing_ships_files(place: Path) -> None:
    planned = run(place, "plan", "--json")
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["basis"]["teacher_parameters"] > 10_000
    result = run(place, "run", "--out", str(place / "out"))
    assert result.exit_code == 0, result.output
    report = json.loads((place / "out" / "report.json").read_text())
    assert all(model["error"] is None for model in report["models"])
    assert {"student/onnx:int8", "student/gguf:Q8_0"} <= {model["id"] for model in report["models"]}
    kl = {model["id"]: model["kl_student"] for model in report["models"]}
    assert kl["student/gguf:Q8_0"]["value"] < 0.02
    card = (place / "out" / "model_card.md").read_text()
    assert "base_model" not in card
    assert "own-weights" in card


def test_the_teacher_depends_on_the_rows_that_its_tokenizer_saw(place: Path) -> None:
    def keys(*more: str) -> dict[str, str]:
        return {
            stage["stage"]: stage["key"] for stage in json.loads(run(place, "plan", "--json", *more).stdout)["stages"]
        }

    assert keys()["teacher"] != keys("--set", "data.splits.train=30")["teacher"]
    assert keys()["teacher"] == keys("--set", "distill.epochs=3")["teacher"]
