"""Stage keys are a promise: a store made by an earlier version stays valid until a stage's version is raised."""

from __future__ import annotations

import json

import pytest
from golden import stages as golden

from distill2edge.stages import KINDS

HELD: dict[str, dict[str, str]] = json.loads(golden.FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str]]:
    return golden.graphs()


@pytest.mark.parametrize("name", HELD)
def test_the_keys_of_a_graph_do_not_move(name: str, found: dict[str, dict[str, str]]) -> None:
    moved = {stage: key for stage, key in HELD[name].items() if found[name].get(stage) != key}
    assert list(found[name]) == list(HELD[name]), "stages, and their order"
    assert not moved, f"keys moved: {', '.join(moved)}. On purpose? See {golden.__file__}"


def test_every_recipe_is_held(found: dict[str, dict[str, str]]) -> None:
    assert found.keys() == HELD.keys()


def test_every_kind_of_stage_is_held() -> None:
    assert {stage.split(" ")[0] for graph in HELD.values() for stage in graph} == set(KINDS)
