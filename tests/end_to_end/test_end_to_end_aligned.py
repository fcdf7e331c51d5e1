"""A teacher's logits to a student of another tokenizer: recipe in; files, figures and refusals out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from light import loads
from tiny import tiny_llama, tiny_recipe, tiny_wordpiece

from distill2edge.cli.main import main
from distill2edge.util import remembered


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe whose student is another model, of 290 tokens where the teacher has 400."""
    root = tmp_path_factory.mktemp("aligned")
    recipe = tiny_recipe(root)
    tiny_llama(root / "other", layers=1, vocabulary=290, seed=3)
    text = recipe.read_text().replace("{from: teacher, layers: 1}", f"{{model: {root / 'other'}}}")
    text = text.replace('response: "{{ label }}"\n  choices: [" bad", " good"]', 'response: "{{ text }} is{{ label }}"')
    text = text.replace("template: plain", "template: text")
    recipe.write_text(text.replace("{kind: logits, top_k: 16}", "{kind: logits, top_k: 16, align: vocabulary}"))
    return root


def run(root: Path, *more: str, command: str = "run") -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    store = [] if command == "check" else ["--store", str(root / "store")]
    group = ["recipe", "check"] if command == "check" else [command]
    return CliRunner().invoke(main, [*group, str(root / "tiny.yaml"), *store, *out, *more])


def test_the_whole_way(place: Path) -> None:
    result = run(place)
    assert result.exit_code == 0, result.output
    assert "of the student's supervised tokens are matched with the teacher's" in result.stderr
    report = json.loads((place / "out" / "report.json").read_text())
    models = {model["id"]: model for model in report["models"]}
    assert set(models) >= {"teacher", "student", "student/onnx:int8", "student/gguf:Q8_0"}
    for name in ("student/onnx:int8", "student/gguf:Q8_0"):
        assert models[name]["kl_student"]["value"] < 0.01
    # Distributions over other tokens have no divergence, and none is made up; the text is scored for both.
    assert all(model["kl_teacher"] is None for name, model in models.items() if name.startswith("student"))
    assert report["metric"]["name"] == "neg_log_likelihood"  # per token of the teacher
    assert all(model["score"]["value"] > 0 for model in models.values())
    (signal,) = (place / "store").glob("signal/*/signal.json")
    facts = json.loads(signal.read_text())
    assert facts["align"] == "vocabulary"
    assert 1 / 3 < facts["matched_share"] < 1
    assert 0 < facts["mass_on_shared_tokens"] < facts["mass_mapped"] <= 1
    assert not (signal.parent / "student").exists()


def test_tokenizers_that_were_matched_are_not_loaded_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "SETTLED_S", 0.0)
    assert run(place, command="check").exit_code == 0
    assert loads("recipe", "check", place / "tiny.yaml") == []


def test_the_student_is_part_of_the_signals_key(place: Path, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "third", layers=1, vocabulary=300, seed=3)
    for changes, cached in (((), True), (("--set", f"student.init.model={tmp_path / 'third'}"), False)):
        result = run(place, "--json", *changes, command="plan")
        assert result.exit_code == 0, result.output
        stages = {stage["stage"]: stage["cached"] for stage in json.loads(result.stdout)["stages"]}
        assert stages["signal"] is cached


def test_another_tokenizer_is_refused_before_the_teacher_runs(place: Path) -> None:
    result = run(place, "--set", "signal.align=none", command="check")
    assert result.exit_code == 2
    assert "teacher and student have different vocabularies" in result.stderr
    assert "set signal.align: vocabulary" in result.stderr


def test_a_gguf_of_another_tokenizer_is_refused_too(place: Path) -> None:
    """The student's own file as the teacher, to a student of other tokens; and to one of the same."""
    file = next((place / "out" / "exports").glob("*gguf*/model.gguf"))
    base = ("--set", f"teacher.model={file}", "--set", "teacher.licence=apache-2.0", "--set", "signal.align=none")
    result = run(place, *base, "--set", f"student.init.model={place / 'teacher'}", command="check")
    assert result.exit_code == 2
    assert "teacher and student have different vocabularies" in result.stderr
    assert run(place, *base, command="check").exit_code == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (("student.init={from: teacher, layers: 1}",), "the student has the teacher's own tokenizer"),
        (("distill.on_policy={}",), "leave distill.on_policy out"),
        (("task=seq2seq",), "signal.align is for task causal-lm, not for seq2seq"),
    ],
)
def test_what_align_does_not_go_with(place: Path, changes: tuple[str, ...], said: str) -> None:
    result = run(place, *(word for change in changes for word in ("--set", change)), command="check")
    assert result.exit_code == 2
    assert said in result.stderr


def test_tokenizers_that_cannot_be_matched_are_refused_by_check(place: Path, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "words", layers=1)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "words" / name).unlink()
    tiny_wordpiece(tmp_path / "words")
    result = run(place, "--set", f"student.init.model={tmp_path / 'words'}", command="check")
    assert result.exit_code == 2
    assert "do not say where the spaces are" in result.stderr
