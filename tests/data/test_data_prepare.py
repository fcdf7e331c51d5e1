"""The data stage: templates over rows, splits by content, leakage told or refused, nothing written by a failed run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from distill2edge.data.encode import SPLITS
from distill2edge.data.examples import Row, row_id
from distill2edge.data.prepare import prepare
from distill2edge.data.split_files import read_rows
from distill2edge.data.templates import Filter, Template
from distill2edge.errors import UserError
from distill2edge.recipe import schema
from distill2edge.util.progress import SilentProgress

WORDS = [f"word{n}" for n in range(300)]


def sentences(count: int, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [{"text": " ".join(rng.choices(WORDS, k=12)), "score": rng.choice([-1, 1])} for _ in range(count)]


def data(path: Path, rows: list[dict[str, Any]] | None = None, **options: Any) -> schema.Data:
    if rows is not None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "source": str(path),
        "prompt": "{{ text }}",
        "response": "{{ 'good' if score > 0 else 'bad' }}",
        "splits": {"test": 20, "validation": 10, "calibration": 5},
    }
    return schema.Data.model_validate(settings | options)


def splits_of(work: Path) -> dict[str, list[Row]]:
    return {name: read_rows(work, name) for name in SPLITS}


def test_splits_hold_every_row_once(tmp_path: Path) -> None:
    facts = prepare(data(tmp_path / "a.jsonl", sentences(100)), 0, tmp_path / "work", SilentProgress())
    splits = splits_of(tmp_path / "work")
    assert {name: len(held) for name, held in splits.items()} == {
        "train": 65,
        "validation": 10,
        "calibration": 5,
        "test": 20,
    }
    ids = [row.id for held in splits.values() for row in held]
    assert len(set(ids)) == 100
    row = splits["train"][0]
    assert row.id == row_id(row.prompt, row.response)
    assert facts == json.loads((tmp_path / "work" / "data.json").read_text())
    assert facts["leakage"]["exact"] == 0


def test_splits_follow_content_and_seed_and_not_the_order(tmp_path: Path) -> None:
    rows = sentences(80)
    first = prepare(data(tmp_path / "a.jsonl", rows), 0, tmp_path / "one", SilentProgress())
    again = prepare(data(tmp_path / "b.jsonl", rows[::-1]), 0, tmp_path / "two", SilentProgress())
    assert first["splits"] == again["splits"]
    other = prepare(data(tmp_path / "a.jsonl"), 1, tmp_path / "three", SilentProgress())
    assert other["splits"]["test"]["sha256"] != first["splits"]["test"]["sha256"]


def test_the_same_content_lands_in_one_split(tmp_path: Path) -> None:
    # Twenty texts, each with two responses: a labelling accident that must not become leakage.
    rows = [{**row, "score": score} for row in sentences(60) for score in (-1, 1)]
    prepare(data(tmp_path / "a.jsonl", rows), 0, tmp_path / "work", SilentProgress())
    where: dict[str, set[str]] = {}
    for name, held in splits_of(tmp_path / "work").items():
        for row in held:
            where.setdefault(row.prompt, set()).add(name)
    assert len(where) == 60
    assert all(len(names) == 1 for names in where.values())


def test_exact_duplicates_empty_rows_and_filtered_rows_are_counted(tmp_path: Path) -> None:
    rows = sentences(60)
    extra = [rows[0], {"text": "  ", "score": 1}, {"text": "dropped", "score": 0}]
    facts = prepare(
        data(
            tmp_path / "a.jsonl",
            rows + extra,
            filter="score != 0",
            splits={"train": 10, "validation": 5, "calibration": 5, "test": 20},
        ),
        0,
        tmp_path / "work",
        SilentProgress(),
    )
    assert facts["dropped"]["duplicate"] == 1
    assert facts["dropped"]["empty"] == 1
    assert facts["dropped"]["filter"] == 1
    assert facts["read"] == {"all": 63}
    assert facts["splits"]["train"]["rows"] == 10


def test_choices_give_labels_and_their_own_spelling(tmp_path: Path) -> None:
    recipe = data(tmp_path / "a.jsonl", sentences(60), choices=[" bad", " good"])
    facts = prepare(recipe, 0, tmp_path / "work", SilentProgress())
    rows = splits_of(tmp_path / "work")["train"]
    assert {row.response for row in rows} == {" bad", " good"}
    assert all(row.response == (" bad", " good")[row.label] for row in rows)
    assert sum(facts["splits"]["train"]["choices"].values()) == len(rows)


def test_a_response_that_is_no_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"row 1: the response '(good|bad)'") as caught:
        prepare(data(tmp_path / "a.jsonl", sentences(60), choices=["x", "y"]), 0, tmp_path / "w", SilentProgress())
    assert caught.value.where == "data.response"
    assert not (tmp_path / "w").exists()


def test_a_missing_field_names_row_field_and_those_that_exist(tmp_path: Path) -> None:
    rows = [*sentences(2), {"txt": "misspelt", "score": 1}]
    with pytest.raises(UserError, match="row 3 has no field text; its fields are score, txt") as caught:
        prepare(data(tmp_path / "a.jsonl", rows), 0, tmp_path / "w", SilentProgress())
    assert caught.value.where == "data.prompt"
    assert caught.value.exit_code == 2


def test_an_empty_source_and_too_few_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty"):
        prepare(data(tmp_path / "a.jsonl", []), 0, tmp_path / "w", SilentProgress())
    with pytest.raises(UserError, match=r"no row is left of 5: 5 left out by data\.filter"):
        prepare(data(tmp_path / "b.jsonl", sentences(5), filter="false"), 0, tmp_path / "w", SilentProgress())
    with pytest.raises(UserError, match="30 usable rows") as caught:
        prepare(data(tmp_path / "c.jsonl", sentences(30)), 0, tmp_path / "w", SilentProgress())
    assert "data.splits" in caught.value.where


def test_splits_of_the_source_keep_their_rows(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    train, test = sentences(50, seed=1), sentences(30, seed=2)
    data(source / "train.jsonl", train)
    data(source / "test.jsonl", test)
    prepare(data(source), 0, tmp_path / "work", SilentProgress())
    splits = splits_of(tmp_path / "work")
    assert {row.prompt for row in splits["test"]} <= {row["text"] for row in test}
    assert len(splits["test"]) == 20
    assert {row.prompt for row in splits["train"] + splits["validation"]} <= {row["text"] for row in train}


def test_test_rows_in_train_are_refused_with_the_count(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    test = sentences(20, seed=2)
    near = {"text": " ".join(test[1]["text"].split()[:-1]), "score": 1}
    data(source / "train.jsonl", [*sentences(50, seed=1), test[0], near])
    data(source / "test.jsonl", test)
    with pytest.raises(UserError, match=r"2 of 20 test rows are in the training rows \(1 exact, 1 near") as caught:
        prepare(data(source), 0, tmp_path / "work", SilentProgress())
    assert caught.value.exit_code == 2
    assert not (tmp_path / "work").exists()

    allowed = data(source, leakage={"max_fraction": 0.2})
    facts = prepare(allowed, 0, tmp_path / "work", SilentProgress())
    assert (facts["leakage"]["exact"], facts["leakage"]["near"], facts["leakage"]["dropped"]) == (1, 1, 2)
    kept = {row.prompt for name in ("train", "validation", "calibration") for row in read_rows(tmp_path / "work", name)}
    assert not kept & {test[0]["text"], near["text"]}

    keep = data(source, leakage={"max_fraction": 0.2, "action": "keep"})
    assert prepare(keep, 0, tmp_path / "keep", SilentProgress())["leakage"]["dropped"] == 0


def test_the_words_of_the_template_are_no_leakage(tmp_path: Path) -> None:
    long = "Read the following review with care and say in one word how the writer felt about it. Review: {{ text }}"
    rows = [{"text": f"short{n} text{n}", "score": 1} for n in range(60)]
    facts = prepare(data(tmp_path / "a.jsonl", rows, prompt=long), 0, tmp_path / "work", SilentProgress())
    assert facts["leakage"]["fraction"] == 0


def test_template_text_needs_no_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(row["text"] for row in sentences(60)))
    recipe = data(tmp_path / "a.txt", template="text", response="{{ text }}")
    prepare(recipe, 0, tmp_path / "work", SilentProgress())
    assert all(row.prompt == "" and row.response for row in splits_of(tmp_path / "work")["train"])


# --- templates ------------------------------------------------------------------


def test_templates_refuse_what_is_not_there() -> None:
    template = Template("{{ a }} and {{ b.c }}", "data.prompt")
    assert template.fields == {"a", "b"}
    assert template.render({"a": 1, "b": {"c": 2}}, 1) == "1 and 2"
    with pytest.raises(UserError, match="row 7: field a is null"):
        template.render({"a": None, "b": {"c": 2}}, 7)
    with pytest.raises(UserError, match="row 8: UndefinedError"):
        template.render({"a": 1, "b": {}}, 8)
    assert Template("{{ a or 'none' }}", "x").render({"a": None}, 1) == "none"
    with pytest.raises(UserError, match="not valid Jinja"):
        Template("{{ a", "data.prompt")


def test_templates_are_sandboxed() -> None:
    with pytest.raises(UserError, match="SecurityError"):
        Template("{{ a.__class__.__mro__ }}", "data.prompt").render({"a": ""}, 1)


def test_filters_say_what_went_wrong() -> None:
    assert Filter("score | float > 0.5", "data.filter").takes({"score": "0.7"}, 1)
    with pytest.raises(UserError, match="row 2: TypeError") as caught:
        Filter("score > 0.5", "data.filter").takes({"score": "0.7"}, 2)
    assert "float" in caught.value.fix
    with pytest.raises(UserError, match="row 3 has no field score"):
        Filter("score > 0.5", "data.filter").takes({"scor": 1}, 3)
    assert not Filter("score is defined", "data.filter").takes({"scor": 1}, 3)
    with pytest.raises(UserError, match="not valid Jinja"):
        Filter("score >", "data.filter")


def test_reading_a_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no train split"):
        read_rows(tmp_path, "train")
