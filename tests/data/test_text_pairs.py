"""Rows of two texts: hashed, told apart and split by both; read as the tokenizer itself reads two texts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from encoders import FAMILIES, tiny_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import WORDS, tiny_tokenizer

from distill2edge.data.encode import SPLITS
from distill2edge.data.encode_texts import encode_texts
from distill2edge.data.examples import Row, row_id
from distill2edge.data.leakage import check
from distill2edge.data.prepare import prepare
from distill2edge.data.split_files import read_rows
from distill2edge.data.text_pairs import pair_frame, shares_of
from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.recipe.schema import Data
from distill2edge.util.progress import SilentProgress

PASSAGE = "a long and winding film about a family that leaves its farm for the city and never comes back home"


def pair(first: str, second: str) -> Row:
    return Row(row_id(first, "yes", second), first, "yes", 0, pair=second)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pair_is_read_as_the_tokenizer_itself_reads_two_texts(name: str, tmp_path: Path) -> None:
    tiny_encoder(tmp_path, name)
    tokenizer: Any = load_tokenizer(tmp_path)
    texts = [("good film", "bad dog, and it"), (WORDS * 2, "x"), ("x", WORDS * 3), (WORDS, WORDS * 2)]
    for length in (62, 24, 25, 9):
        counts = Counter[str]()
        found = encode_texts([pair(*each) for each in texts], tokenizer, length, counts)
        for row, (first, second) in zip(found, texts, strict=True):
            own = tokenizer(first, second, truncation="longest_first", max_length=length, return_token_type_ids=True)
            assert row.ids == own["input_ids"]
            assert (row.types or [0] * len(row.ids)) == own["token_type_ids"]
            assert row.row == row_id(first, "yes", second)
        whole = [len(tokenizer(*each)["input_ids"]) for each in texts]
        assert counts == {"rows": 4, "cut": sum(count > length for count in whole)}
        tokenizer.backend_tokenizer.no_truncation()
    between = tokenizer.convert_ids_to_tokens(pair_frame(tokenizer).between)
    assert between == [FAMILIES[name].around[1]] * FAMILIES[name].between


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 50))
@settings(max_examples=200)
def test_the_longer_text_gives_way_and_no_token_is_cut_that_has_room(first: int, second: int, room: int) -> None:
    one, two = shares_of(first, second, room)
    assert one + two == min(first + second, room)
    assert one <= first
    assert two <= second
    if one < first:
        assert one >= two - 1
    if two < second:
        assert two >= one - 1


def test_a_tokenizer_that_puts_nothing_between_two_texts_is_refused(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    with pytest.raises(UserError, match="nothing between two texts") as caught:
        encode_texts([pair("a", "b")], load_tokenizer(tmp_path), 32)
    assert caught.value.where == "data.pair"


def test_special_tokens_leave_room_for_both_texts(tmp_path: Path) -> None:
    tiny_encoder(tmp_path, "roberta")
    with pytest.raises(UserError, match="4 of 5 tokens are special ones") as caught:
        encode_texts([pair("a", "b")], load_tokenizer(tmp_path), 5)
    assert caught.value.where == "data.max_length"


def made(root: Path, rows: list[dict[str, Any]], **more: Any) -> tuple[dict[str, Any], dict[str, list[Row]]]:
    source = root / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = {
        "source": str(source), "template": "plain", "prompt": "{{ q }}", "pair": "{{ p }}", "response": "{{ label }}",
        "choices": ["no", "yes"], "splits": {"train": None, "validation": 2, "calibration": 2, "test": 5},
        "leakage": {"near_duplicate": 1.0},
    }  # fmt: skip
    facts = prepare(Data(**{**section, **more}), 0, root / "out", SilentProgress())
    return facts, {split: read_rows(root / "out", split) for split in SPLITS}


def rows(count: int, begin: int = 0) -> list[dict[str, Any]]:
    return [
        {"q": f"question {n}", "p": f"passage {n * 7} of {n}", "label": ("no", "yes")[n % 2], "other": f"aside {n}"}
        for n in range(begin, begin + count)
    ]


def test_both_texts_are_in_the_hash_and_in_the_files(tmp_path: Path) -> None:
    _, splits = made(tmp_path, rows(30))
    kept = [row for split in SPLITS for row in splits[split]]
    assert {(row.prompt, row.pair) for row in kept} == {(row["q"], row["p"]) for row in rows(30)}
    assert all(row.id == row_id(row.prompt, row.response, row.pair) for row in kept)
    assert row_id("a", "c", "b") != row_id("a", "c") != row_id("b", "c", "a") != row_id("a", "c", "b")


def test_swapped_texts_are_another_row_and_the_same_pair_is_taken_once(tmp_path: Path) -> None:
    one = {"q": "the good film", "p": "a bad dog", "label": "yes", "other": ""}
    swapped = {**one, "q": one["p"], "p": one["q"]}
    facts, splits = made(tmp_path, [*rows(20), one, swapped, dict(one)])
    kept = [(row.prompt, row.pair) for split in SPLITS for row in splits[split]]
    assert kept.count((one["q"], one["p"])) == kept.count((one["p"], one["q"])) == 1
    assert facts["dropped"] == {"duplicate": 1}
    assert facts["leakage"]["exact"] == 0


def test_rows_of_one_text_keep_their_columns_and_their_hash(tmp_path: Path) -> None:
    _, splits = made(tmp_path, rows(30), pair=None)
    assert pq.read_schema(tmp_path / "out" / "train.parquet").names == ["id", "prompt", "response", "label"]
    assert all(row.id == row_id(row.prompt, row.response) and row.pair is None for row in splits["train"])


def test_a_row_without_a_second_text_is_left_out_and_counted(tmp_path: Path) -> None:
    facts, _ = made(tmp_path, [*rows(30), {"q": "alone", "p": " ", "label": "no", "other": ""}])
    assert facts["dropped"] == {"alone": 1}


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="passage") as caught:
        made(tmp_path, rows(30), pair="{{ passage }}")
    assert caught.value.where == "data.pair"


def test_two_pairs_leak_only_where_both_texts_do() -> None:
    held = [("what is the film about", PASSAGE)]
    assert check([("What is the film about?", PASSAGE)], held, 0.8).exact == 1
    assert check([("what is the film about", PASSAGE.replace("home", "again"))], held, 0.8).near == 1
    assert check([("where does the family go", PASSAGE)], held, 0.8).fraction == 0
    assert check([("what is the film about", "another text")], held, 0.8).fraction == 0
    assert check([(PASSAGE, "what is the film about")], held, 0.8).fraction == 0
    assert check([("what is the", "film about " + PASSAGE)], held, 0.8).fraction == 0


def test_one_passage_for_every_question_is_no_leak() -> None:
    held = [(f"question number {n} of these", PASSAGE) for n in range(30)]
    assert check([("another question of these", PASSAGE)], held, 0.8).fraction == 0
    assert check([held[3]], held, 0.8).exact == 1
    assert check([("question number 3 of these", PASSAGE + ".")], held, 0.8).leaks[0].test == 3


def test_a_pool_of_unlabelled_pairs_has_templates_of_its_own(tmp_path: Path) -> None:
    pool = tmp_path / "pool.jsonl"
    found = [{"q": row["q"], "p": row["p"], "other": row["other"]} for row in rows(40, 20)]
    pool.write_text("".join(json.dumps(row) + "\n" for row in found))
    facts, splits = made(tmp_path, rows(30), unlabelled={"source": str(pool)})
    bare = [row for row in splits["train"] if not row.response]
    assert len(bare) == facts["unlabelled"]["rows"] == 30  # those of the labelled rows are left out
    assert all(row.pair and row.pair.startswith("passage") for row in bare)
    _, splits = made(tmp_path, rows(30), unlabelled={"source": str(pool), "pair": "{{ other }}"})
    bare = [row for row in splits["train"] if not row.response]
    assert len(bare) == 40
    assert all(row.pair and row.pair.startswith("aside") for row in bare)
