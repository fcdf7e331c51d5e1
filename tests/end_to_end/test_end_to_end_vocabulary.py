"""A decoder with the tokens of its rows alone, the whole path: signal of the full teacher, files, verify, answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from tiny import tiny_recipe

from distill2edge.cli.main import main

WORDS = [
    "quick",
    "brown",
    "jumps",
    "over",
    "lazy",
    "and",
    "then",
    "sleeps",
    "warm",
    "sun",
    "long",
    "afternoon",
    "while",
    "we",
    "review",
    "books",
    "music",
    "fine",
    "awful",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third row has a word of its own: where it is not a training row, its token is not there."""
    root = tmp_path_factory.mktemp("run")
    path = tiny_recipe(root)
    words = [WORDS[n // 3 % len(WORDS)] if n % 3 == 0 else "the" for n in range(60)]
    rows = [{"text": f"film {n} {word} dog", "label": (" bad", " good")[n % 2]} for n, word in enumerate(words)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = yaml.safe_load(path.read_text())
    recipe["student"]["vocabulary"] = {"trim": "corpus", "keep": [" warm sun"], "max_unseen": 0.5}
    path.write_text(yaml.safe_dump(recipe))
    return root


def run(root: Path, *more: str, command: str = "run") -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    return CliRunner().invoke(main, [command, str(root / "tiny.yaml"), "--store", str(root / "store"), *out, *more])


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    result = run(place)
    assert result.exit_code == 0, result.output
    return place


def artifact(root: Path, stage: str) -> Path:
    (found,) = (root / "store" / stage).iterdir()
    return found


def report(root: Path) -> Any:
    return json.loads((root / "out" / "report.json").read_text())


def test_the_student_has_fewer_tokens_and_says_so(finished: Path) -> None:
    found = report(finished)
    vocabulary = found["student"]["vocabulary"]
    assert vocabulary["kept"] == 320
    assert vocabulary["of"] == 400
    assert vocabulary["bytes_saved"] > 80 * 64 * 4 * 0.9
    assert 0 < vocabulary["unseen_on_test"]["changed"] < vocabulary["unseen_on_test"]["texts"]
    by_id = {model["id"]: model for model in found["models"]}
    assert by_id["student"]["parameters"] == found["student"]["parameters"]
    assert "320 of 400 tokens" in (finished / "out" / "report.md").read_text()


def test_the_kept_texts_are_single_tokens_still(finished: Path) -> None:
    from transformers import AutoTokenizer

    full = AutoTokenizer.from_pretrained(finished / "teacher", local_files_only=True)
    small = AutoTokenizer.from_pretrained(artifact(finished, "student") / "model", local_files_only=True)
    assert small.tokenize(" warm sun") == full.tokenize(" warm sun")
    assert len(small) == 320


def test_files_equal_their_student_and_are_compared_with_the_teacher(finished: Path) -> None:
    by_id = {model["id"]: model for model in report(finished)["models"]}
    for name in ("student/onnx:int8", "student/gguf:Q8_0"):
        assert by_id[name]["kl_student"]["value"] < 0.01
        teacher = by_id[name]["kl_teacher"]
        assert teacher["value"] == pytest.approx(by_id["student"]["kl_teacher"]["value"], abs=0.05)
        assert 0 < teacher["n"] < by_id[name]["kl_student"]["n"]  # rows in other tokens are not compared


def test_the_signal_does_not_depend_on_the_vocabulary(finished: Path) -> None:
    whole = run(finished, "--json", "--set", "student.vocabulary=keep", command="plan")
    cached = {stage["stage"]: stage["cached"] for stage in json.loads(whole.stdout)["stages"]}
    assert cached["signal"]
    assert not cached["student"]
    assert not cached["distill"]


@pytest.mark.parametrize("export", ["tiny-gguf-Q8_0", "tiny-onnx-int8"])
def test_any_text_is_answered(finished: Path, export: str) -> None:
    place = finished / "out" / "exports" / export
    result = CliRunner().invoke(
        main, ["chat", str(place), "--prompt", "Überraschung 🙂 afternoon", "--max-tokens", "4"]
    )
    assert result.exit_code == 0, result.output


def test_too_many_unseen_tokens_are_an_error_before_the_signal(finished: Path) -> None:
    result = run(finished, "--set", "student.vocabulary.max_unseen=0.0001", "--set", "signal.top_k=15")
    assert result.exit_code == 2, result.output
    assert "student.vocabulary.max_unseen" in result.output
    assert "of the validation rows' tokens are not in the trimmed vocabulary" in result.output
    assert len(list((finished / "store" / "signal").iterdir())) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("student.vocabulary={trim: corpus, keep: ['']}", "student.vocabulary.keep[0]: an empty text keeps no token"),
        ("student.vocabulary={trim: rows}", "student.vocabulary.trim"),
        ("student.vocabulary={trim: corpus, max_unseen: 2}", "student.vocabulary.max_unseen"),
        ("student.vocabulary={trim: corpus, min_frequency: 0}", "student.vocabulary.min_frequency"),
        ("student.vocabulary={trim: corpus, min_frequency: 2}", "student.vocabulary.min_frequency is for task"),
        ("student.vocabulary=small", "keep"),
    ],
)
def test_what_makes_no_sense_is_said_by_check(place: Path, change: str, said: str) -> None:
    result = CliRunner().invoke(main, ["recipe", "check", str(place / "tiny.yaml"), "--set", change])
    assert result.exit_code == 2
    assert said in result.output


def test_a_tokenizer_that_cannot_be_trimmed_is_said_by_check(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "teacher", tmp_path / "teacher")
    path = tmp_path / "teacher" / "tokenizer.json"
    spec = json.loads(path.read_text())
    spec["model"] = {"type": "WordLevel", "vocab": spec["model"]["vocab"], "unk_token": "<|endoftext|>"}
    path.write_text(json.dumps(spec))
    change = ("--set", f"teacher.model={tmp_path / 'teacher'}")
    result = CliRunner().invoke(main, ["recipe", "check", str(place / "tiny.yaml"), *change])
    assert result.exit_code == 2
    assert "a WordLevel vocabulary cannot be trimmed: supported: WordPiece, BPE, Unigram" in result.output
