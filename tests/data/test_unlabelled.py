"""Rows without a response: kept where they are asked for, never held out, never twice, and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill2edge.data.encode import SPLITS
from distill2edge.data.examples import Row
from distill2edge.data.prepare import prepare
from distill2edge.data.split_files import read_rows
from distill2edge.errors import UserError
from distill2edge.recipe.schema import Data
from distill2edge.util.progress import SilentProgress

TEXT = "film number {} of the {} kind, seen {} times"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def text(n: int) -> str:
    return TEXT.format(n, n * 7, n * 13)


def made(root: Path, source: Path, **more: Any) -> tuple[dict[str, Any], dict[str, list[Row]]]:
    section = {
        "source": str(source), "template": "plain", "prompt": "{{ text }}", "response": "{{ label }}",
        "choices": ["bad", "good"], "splits": {"train": 10, "validation": 5, "calibration": 5, "test": 10},
        "leakage": {"near_duplicate": 1.0},
    }  # fmt: skip
    facts = prepare(Data(**{**section, **more}), 0, root / "out", SilentProgress())
    return facts, {split: read_rows(root / "out", split) for split in SPLITS}


def labelled(count: int) -> list[dict[str, Any]]:
    return [{"text": text(n), "label": ("bad", "good")[n % 2]} for n in range(count)]


@pytest.mark.parametrize("empty", [None, "", "  ", "NaN"])
def test_rows_of_the_source_that_have_no_response_join_the_training_rows(tmp_path: Path, empty: str | None) -> None:
    rows = labelled(40) + [{"text": text(n), "label": empty} for n in range(100, 120)]
    facts, splits = made(tmp_path, write(tmp_path / "rows.jsonl", rows), unlabelled={})
    bare = [row for row in splits["train"] if not row.response]
    assert len(bare) == facts["unlabelled"]["rows"] == facts["splits"]["train"]["without_response"] == 20
    assert {row.label for row in bare} == {-1}
    assert all(row.response for split in ("validation", "calibration", "test") for row in splits[split])
    assert facts["classes"] == {"bad": 20, "good": 20}


def test_without_the_section_such_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = labelled(40) + [{"text": text(n), "label": ""} for n in range(100, 120)]
    facts, splits = made(tmp_path, write(tmp_path / "rows.jsonl", rows))
    assert facts["dropped"]["empty"] == 20
    assert all(row.response for row in splits["train"])


def test_a_pool_of_the_same_source_leaves_the_labelled_rows_out(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", labelled(60))
    facts, splits = made(tmp_path, source, unlabelled={"source": str(source)})
    kept = [row.prompt for split in SPLITS for row in splits[split]]
    assert len(kept) == len(set(kept)) == 60
    assert facts["dropped"]["labelled"] == 30
    assert facts["leakage"]["dropped"] == 0


def test_a_pool_is_bounded_and_chosen_by_the_seed_whatever_its_order(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", labelled(40))
    bare = [{"body": text(n)} for n in range(200, 300)]
    section = {"prompt": "{{ body }}", "rows": 12}
    found = []
    for name, rows in (("a", bare), ("b", bare[::-1])):
        pool = write(tmp_path / f"{name}.jsonl", rows)
        found.append(made(tmp_path, source, unlabelled={"source": str(pool), **section})[1]["train"])
    assert found[0] == found[1]
    assert sum(not row.response for row in found[0]) == 12


def test_what_is_too_near_to_a_test_row_is_left_out_and_no_error(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", labelled(40))
    leakage = {"near_duplicate": 0.5}
    _, before = made(tmp_path, source, leakage={"near_duplicate": 1.0})
    near = [{"text": row.prompt + " more"} for row in before["test"]] + [{"text": "quite another text"}]
    pool = write(tmp_path / "near.jsonl", near)
    facts, splits = made(
        tmp_path, source, unlabelled={"source": str(pool)}, leakage={**leakage, "max_fraction": 1.0, "action": "keep"}
    )
    assert [row.prompt for row in splits["train"] if not row.response] == ["quite another text"]
    assert facts["dropped"]["leaking"] >= 10


def test_a_pool_of_labelled_texts_alone_is_an_error(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", labelled(40))
    pool = write(tmp_path / "pool.jsonl", [{"text": made(tmp_path, source)[1]["test"][0].prompt}])
    with pytest.raises(UserError, match="no unlabelled row is left") as error:
        made(tmp_path, source, unlabelled={"source": str(pool)})
    assert error.value.where == "data.unlabelled"


def test_no_response_at_all(tmp_path: Path) -> None:
    facts, splits = made(tmp_path, write(tmp_path / "rows.jsonl", labelled(40)), response=None)
    assert {row.response for split in SPLITS for row in splits[split]} == {""}
    assert "classes" not in facts
    assert {len(splits[split]) for split in SPLITS} == {5, 10}


@pytest.mark.parametrize("section", [None, {}])
def test_a_test_split_without_responses_is_refused_before_anything_is_trained(tmp_path: Path, section: Any) -> None:
    (tmp_path / "source").mkdir()
    write(tmp_path / "source" / "train.jsonl", labelled(60))
    write(tmp_path / "source" / "test.jsonl", [{"text": text(n), "label": ""} for n in range(100, 120)])
    with pytest.raises(UserError, match="no row of the test split is usable: 20 were read") as error:
        made(tmp_path, tmp_path / "source", unlabelled=section)
    assert error.value.where == "data.splits.test"
