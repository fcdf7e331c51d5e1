"""A token classifier the whole way on tiny random encoders: recipe in; files, report and exit code out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import tiny_bert, tiny_llama

import distill2edge as d2e
from distill2edge.cli.main import main

RECIPE = """\
name: tiny
task: token-classification
teacher: {{model: {model}, fit: {{epochs: 6, learning_rate: 2e-3, batch_size: 8, lora: null}}}}
data:
  source: {rows}
  template: plain
  choices: [ANIMAL, TOPIC]
  max_length: 40
  splits: {{train: 96, validation: 8, calibration: 4, test: 24}}
  leakage: {{near_duplicate: 1.0}}
signal: {{kind: labels}}
student: {{init: {{from: teacher, layers: 2}}, vocabulary: trim, lora: null}}
distill:
  loss: {{ce: 0.5, forward_kl: 0.5, hidden: 0.1}}
  epochs: 6
  learning_rate: 2e-3
  batch_size: 8
export: [onnx:int8, onnx:int4-b32]
verify: {{rows: 24, min_retained: 0.8, max_kl: {{lossless: 0.1, eight_bits: 0.1}}}}
bench: {{workloads: [task], rounds: 1, requests: 2}}
"""
ANIMALS, TOPICS = ("fox", "lazy dog", "brown fox"), ("music", "films", "books")


def row_of(number: int) -> dict[str, Any]:
    animal, topic = ANIMALS[number % 3], TOPICS[number // 3 % 3]
    words = f"the {animal} and {number} then {number * 37} it: {topic}".replace(":", " :").split()
    tags = ["O"] * len(words)
    tags[1 : 1 + len(animal.split())] = ["B-ANIMAL", "I-ANIMAL"][: len(animal.split())]
    return {"tokens": words, "tags": [*tags[:-1], "B-TOPIC"]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    tiny_bert(root / "teacher", layers=3, masked=True)
    tiny_bert(root / "sorts", layers=3)
    tiny_llama(root / "writes")
    for name in ("teacher", "sorts", "writes"):
        (root / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    rows = [row_of(number) for number in range(140)]
    bad = {
        "rows": rows,
        "short": [{**rows[0], "tags": ["O"]}, *rows],
        "other": [{**rows[0], "tags": ["B-ANIMALS", *rows[0]["tags"][1:]]}, *rows],
        "number": [{**rows[0], "tags": [9] * len(rows[0]["tags"])}, *rows],
        "named": [{"w": row["tokens"], "t": row["tags"]} for row in rows],
        "beyond": [{"text": "a fox", "entities": [{"start": 2, "end": 9, "label": "ANIMAL"}]}],
        "overlap": [{"text": "a fox", "entities": [[0, 5, "TOPIC"], [2, 5, "ANIMAL"]]}],
        "plain": [{**row, "tags": ["O"] * len(row["tags"])} for row in rows],
    }
    for name, given in bad.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    tiny_tagger(root / "tags")
    (root / "tiny.yaml").write_text(RECIPE.format(model=root / "teacher", rows=root / "rows.jsonl"))
    return root


def tiny_tagger(directory: Path) -> None:
    """A random model with a head over the tags, in an order of its own."""
    import torch
    from transformers import BertConfig, BertForTokenClassification

    tiny_bert(directory, layers=3)
    tags = ["B-TOPIC", "I-TOPIC", "O", "I-ANIMAL", "B-ANIMAL"]
    config = BertConfig.from_pretrained(directory)
    config.id2label = dict(enumerate(tags))
    config.label2id = {tag: index for index, tag in enumerate(tags)}
    torch.manual_seed(1)
    BertForTokenClassification(config).eval().save_pretrained(directory)
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")


def run(root: Path, *more: str, command: str = "run") -> Result:
    out = ["--out", str(root / "out")] if command == "run" else []
    return CliRunner().invoke(main, [command, str(root / "tiny.yaml"), "--store", str(root / "store"), *out, *more])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("data.source=short.jsonl", "row 1: 9 words and 1 tags"),
        ("data.source=other.jsonl", "the tag 'B-ANIMALS' is not O, B- or I- with one of the types of data.choices"),
        ("data.source=number.jsonl", "row 1: the tag 9, and data.choices has 5 tags: 0 is O, 1 is B-ANIMAL"),
        ("data.source=named.jsonl", "name them: data.entities: {tokens: ..., tags: ...}"),
        ("data.source=beyond.jsonl", "row 1: an entity from character 2 to 9 of a text of 5"),
        ("data.source=overlap.jsonl", "the entities 'a fox' and 'fox' overlap"),
        ("data.source=plain.jsonl", "no train row has an entity: there is nothing to learn"),
        ("data.choices=null", "needs the types of entities"),
        ("data.choices=[B-ANIMAL, I-ANIMAL]", "the tags have no O"),
        ("data.prompt={{ text }}", "name their fields: data.entities"),
        ("data.entities={text: a, tags: b}", "data.entities names text and the others"),
        ("distill.loss={mse: 1}", "a loss on numbers is for task regression, not for token-classification"),
        ("distill.loss.class_weights=balanced", "class_weights is for task classification"),
        ("signal={kind: logits}", "use signal: {kind: labels}"),
        ("export=[gguf:F16]", "gguf:F16: llama.cpp has no head that gives each token a tag"),
        ("teacher.ask={prompt: '{{ prompt }}'}", "teacher.ask is for task classification"),
        ("teacher.model=sorts", "and the task is token-classification"),
        ("teacher.model=writes", "and the task is token-classification"),
        ("task=classification", "data.entities is for task token-classification, not for classification"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(place: Path, change: str, said: str) -> None:
    more = ["--set", "data.entities={tokens: tokens}"] if change.startswith("task") else []
    change = change.replace("=", f"={place}/", 1) if change.endswith(".jsonl") else change
    result = run(place, "--set", change, *more)
    assert result.exit_code == 2, result.output
    assert said in result.stderr, result.stderr


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    result = run(place, "--set", "distill.control=true")
    assert result.exit_code == 0, result.output
    return place


def models(root: Path) -> dict[str, dict[str, Any]]:
    report = json.loads((root / "out" / "report.json").read_text())
    return {model["id"]: model for model in report["models"]}


@pytest.mark.slow
def test_the_files_find_the_student_s_entities(finished: Path) -> None:
    found = models(finished)
    assert found["teacher"]["score"]["value"] > 0.9
    assert found["control"]["score"]["value"] > 0.5
    assert found["student/onnx:int4-b32"]["error"] is None
    file = found["student/onnx:int8"]
    assert file["error"] is None
    assert file["kl_student"]["value"] < 0.05
    assert file["score"]["value"] == pytest.approx(found["student"]["score"]["value"], abs=0.1)
    assert file["types"]["ANIMAL"]["wanted"] == 24
    assert file["recall"]["value"] > 0.8
    assert file["word_accuracy"]["value"] > 0.9
    text = (finished / "out" / "report.md").read_text()
    assert "entity F1" in text
    assert "F1 by type" in text


@pytest.mark.slow
def test_chat_the_library_and_predict_py_find_the_same(finished: Path) -> None:
    asked = "the brown fox and 7 then 8 it: films"
    shown = CliRunner().invoke(main, ["chat", str(finished / "out"), "--scheme", "onnx:int8", "--prompt", asked])
    assert shown.exit_code == 0, shown.output
    with d2e.open_model(finished / "out", "onnx:int8") as model:
        found = model.entities(asked)
        with pytest.raises(d2e.UserError, match="this is a token classifier"):
            model.labels(asked)
    assert [(asked[start:end], label) for start, end, label in found] == [("brown fox", "ANIMAL"), ("films", "TOPIC")]
    folder = finished / "out" / "exports" / "tiny-onnx-int8"
    said = subprocess.run(
        [sys.executable, str(folder / "predict.py"), asked], capture_output=True, text=True, check=True
    )
    assert said.stdout == shown.stdout == "ANIMAL\t4\t13\tbrown fox\nTOPIC\t31\t36\tfilms\n"
    assert "One line for each entity" in (folder / "USE.md").read_text()


def test_a_head_of_other_tags_is_refused(place: Path) -> None:
    result = run(place, "--set", "teacher.model=tags", "--set", "teacher.fit=null")
    assert result.exit_code == 2, result.output
    assert "the head's labels are in another order" in result.stderr
    assert "write data.choices: [B-TOPIC, I-TOPIC, O, I-ANIMAL, B-ANIMAL]" in result.stderr


@pytest.mark.slow
def test_a_ready_head_teaches_without_tags(place: Path) -> None:
    changes = (
        "teacher.model=tags", "teacher.fit=null", "data.response=null", "distill.loss={forward_kl: 1}",
        "data.choices=[B-TOPIC, I-TOPIC, O, I-ANIMAL, B-ANIMAL]", "export=[onnx:fp32]", "verify.min_retained=null",
    )  # fmt: skip
    result = run(place, *(part for change in changes for part in ("--set", change)))
    assert result.exit_code == 0, result.output
    report = json.loads((place / "out" / "report.json").read_text())
    assert report["metric"]["name"] == "entity_agreement"
    found = models(place)
    assert found["teacher"]["score"]["value"] == pytest.approx(1)
    assert found["student/onnx:fp32"]["top1_teacher"]["value"] > 0.5
    assert "word_accuracy" in found["student"]
