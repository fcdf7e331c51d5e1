"""Stage keys are a promise: a store made by an earlier version stays valid until a stage's version is raised."""

from __future__ import annotations

import pytest

from distill2edge import stages
from distill2edge.pipeline import keys_of
from distill2edge.progress import SilentProgress
from distill2edge.recipe.load import parse_recipe

RECIPE = """\
name: keys
teacher: {model: owner/teacher, fit: {max_rows: 10}}
data: {source: rows.jsonl, choices: [" a", " b"]}
student: {init: {from: teacher, layers: 2}}
distill: {control: true}
export: [onnx:int8]
"""
FIRST = 8  # hexadecimal digits
EXPECTED = {
    "data": "2297e957",
    "teacher": "d2e589a2",
    "fit": "71cd3564",
    "signal": "ed786454",
    "student": "bc27bf19",
    "distill": "f6dcbeea",
    "merge": "b48ece50",
    "distill control": "b8def54f",
    "merge control": "1d5c32f3",
    "export student/onnx:int8": "ac7ff7c6",
    "verify": "473d8dde",
    "bench": "8caefcbb",
    "report": "024c7934",
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr("distill2edge.data.sources.fingerprint", lambda *args: {"sha256": "rows"})
    monkeypatch.setattr("distill2edge.teacher.load.fingerprint", lambda *args: {"sha256": "model"})
    recipe = parse_recipe(RECIPE, "keys.yaml")
    return keys_of(stages.build_stages(recipe, SilentProgress()), recipe.seed)


def test_keys_of_a_causal_recipe_do_not_move(keys: dict[str, str]) -> None:
    assert {name: key[:FIRST] for name, key in keys.items()} == EXPECTED
