"""Responses that are sets of choices: how a list or a text is read, and that a missing one is not the empty set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill2edge.data.choice_sets import set_of
from distill2edge.data.encode import SPLITS
from distill2edge.data.prepare import prepare
from distill2edge.data.rows import Dropped, Rows
from distill2edge.data.split_files import read_rows
from distill2edge.errors import Problem, UserError
from distill2edge.recipe.schema import Data
from distill2edge.recipe.section import Incoherent
from distill2edge.util.progress import SilentProgress

NAMES = ("film", "rock, pop", "Zoë")


def data(response: str = "{{ labels }}", **more: Any) -> Data:
    return Data(
        source="a.jsonl", prompt="{{ text }}", response=response, template="plain",
        **{"choices": NAMES, "multi": True, **more},
    )  # fmt: skip


def labels(section: Data, value: Any) -> tuple[int, ...] | None:
    dropped = Dropped()
    found = [item for _, item in Rows(section).items([{"text": "x", "labels": value}], dropped)]
    return set_of(found[0].row.response, section.choices or ()) if found else None


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        ([], ()),
        ("[]", ()),
        (" [ ] ", ()),
        (["film"], (0,)),
        (["Zoë", "film"], (0, 2)),
        (["Zoe\u0308", " film "], (0, 2)),  # as of one choice: forms of Unicode and blanks tell nothing apart
        (["film", "film"], (0,)),
        ('["rock, pop", "film"]', (0, 1)),
        ("['rock, pop', 'film']", (0, 1)),  # as pandas writes lists into a CSV
        ("rock, pop", (1,)),
        ("film", (0,)),
    ],
)
def test_lists_and_single_choices_are_sets(value: Any, indices: tuple[int, ...]) -> None:
    assert labels(data(), value) == indices


def test_numbers_are_choices_by_their_text() -> None:
    assert labels(data(choices=("0", "1", "2")), [2, 0]) == (0, 2)


@pytest.mark.parametrize(
    ("value", "indices"),
    [("film;Zoë", (0, 2)), ("film ; rock, pop;", (0, 1)), ("film", (0,)), ("[]", ()), ('["film"]', (0,)), ("; ", ())],
)
def test_a_separator_cuts_a_text(value: str, indices: tuple[int, ...]) -> None:
    assert labels(data(separator=";"), value) == indices


@pytest.mark.parametrize(
    ("value", "said", "fix"),
    [
        (["film", "flim"], "row 1: the label 'flim' is not one of data.choices ('film', 'rock, pop', 'Zoë')", "film?"),
        ("film; Zoë", "row 1: the label 'film; Zoë' is not one", 'set data.separator: ";"'),
        ("[film]", "begins as a list, and is none", "tojson"),
        ("['film'", "begins as a list, and is none", "tojson"),
        ("[" * 50_000, "begins as a list, and is none", "tojson"),
        ([["film"]], 'holds ["film"], and a set of labels holds texts', "correct that row"),
        ([None], "holds null", "correct that row"),
        ([True], "holds true", "correct that row"),
        ("__import__('os')", "is not one of data.choices", "data.choices"),
        ({"film": 1}, "is an object", "name the part"),
    ],
)
def test_what_is_no_set_names_the_row(value: Any, said: str, fix: str) -> None:
    with pytest.raises(UserError) as caught:
        labels(data(), value)
    assert said in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_text_is_a_missing_answer(value: str) -> None:
    assert labels(data(separator=";"), value) is None
    assert labels(data("{{ labels or '[]' }}"), value.strip()) == ()


def test_null_is_refused_unless_rows_without_an_answer_are_kept() -> None:
    with pytest.raises(UserError, match="labels is null"):
        labels(data(), None)
    assert labels(data(unlabelled={}), None) is None
    assert labels(data(unlabelled={}), []) == ()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"separator": "o"}, "stands in the choice 'rock, pop'"),
        ({"multi": False, "separator": ";"}, "data.multi is false"),
        ({"choices": ("[x]", "y")}, "begins as a list of choices does"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="Value error") as caught:
        data(**more)
    found = caught.value.errors()[0]["ctx"]["error"]  # type: ignore[attr-defined]
    assert isinstance(found, Incoherent)
    (problem,) = found.problems
    assert isinstance(problem, Problem)
    assert said in problem.what


class Told(SilentProgress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def prepared(root: Path, rows: list[dict[str, Any]], progress: Any = None, **more: Any) -> dict[str, Any]:
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {n} {n * 7}", **row}) + "\n" for n, row in enumerate(rows)))
    splits = {"train": 20, "validation": 5, "calibration": 2, "test": 10}
    section = data(leakage={"near_duplicate": 1.0}, splits=splits, **more).model_copy(update={"source": str(path)})
    return prepare(section, 0, root / "out", progress or Told())


def test_empty_sets_are_trained_on_and_missing_answers_join_the_unlabelled(tmp_path: Path) -> None:
    rows = [{"labels": ([], ["film"], ["film", "Zoë"], None)[n % 4]} for n in range(60)]
    facts = prepared(tmp_path, rows, unlabelled={})
    assert facts["unlabelled"]["rows"] == 15
    train = read_rows(tmp_path / "out", "train")
    assert {row.response for row in train} == {"", "[]", '["film"]', '["film", "Zoë"]'}
    assert sum(not row.response for row in train) == 15
    held = [row.response for split in SPLITS[1:] for row in read_rows(tmp_path / "out", split)]
    assert "" not in held
    assert "[]" in held
    assert facts["classes"] == {"film": 30, "rock, pop": 0, "Zoë": 15}
    assert sum("'rock, pop' (0 in the source)" in warning for warning in facts["warnings"]) == 2  # train and test


def test_rows_left_out_for_an_empty_text_are_told_with_the_way_to_mean_none(tmp_path: Path) -> None:
    progress = Told()
    facts = prepared(tmp_path, [{"labels": ("film", "Zoë", "")[n % 3]} for n in range(60)], progress)
    assert facts["dropped"]["empty"] == 20
    assert any("data.response: \"{{ labels or '[]' }}\"" in warning for warning in progress.warnings)


def test_one_set_alone_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"every row of the source has the labels \[\]"):
        prepared(tmp_path, [{"labels": []}] * 60)
