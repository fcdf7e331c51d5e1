"""Rows of words with tags and of texts with entities: what is read, dropped with its reason, and refused."""

from __future__ import annotations

from typing import Any

import pytest

from distill2edge.data.rows import Dropped, Rows
from distill2edge.errors import UserError
from distill2edge.models.tags import parsed
from distill2edge.recipe.schema import Data

WORDS = {"tokens": ["Ann", "Lee", "is", "in", "U.S.", "."], "tags": ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]}
TEXT = {"text": "Ann Lee is in U.S.", "entities": [{"start": 0, "end": 7, "label": "PER"}]}


def rows_of(**more: Any) -> Rows:
    given = {"source": "x", "template": "plain", "choices": ["PER", "LOC"], **more}
    return Rows(Data(**given), tagged=True)


def read(row: dict[str, Any], **more: Any) -> tuple[str, list[tuple[str, str]]]:
    item = rows_of(**more).item(row, 1)
    text = item.row.prompt
    return text, [(text[start:end], label) for start, end, label in parsed(item.row.response)]


FOUND = [("Ann Lee", "PER"), ("U.S.", "LOC")]


@pytest.mark.parametrize(
    ("row", "more"),
    [
        (WORDS, {}),
        ({"words": WORDS["tokens"], "ner_tags": [1, 2, 0, 0, 3, 0]}, {}),
        ({"tokens": "Ann Lee is in U.S. .", "tags": "B-PER I-PER O O B-LOC O"}, {}),
        ({"w": WORDS["tokens"], "t": WORDS["tags"]}, {"entities": {"tokens": "w", "tags": "t"}}),
        ({**WORDS, "tags": ["I-PER", "I-PER", "O", "O", "I-LOC", "O"]}, {}),
        (
            {**WORDS, "ner": [4, 3, 0, 0, 2, 0]},
            {"choices": ["O", "I-LOC", "B-LOC", "I-PER", "B-PER"], "entities": {"tags": "ner"}},
        ),
    ],
    ids=["iob2", "numbers", "blanks", "named", "without-b", "numbers-of-a-head"],
)
def test_words_and_tags_are_a_text_with_entities(row: dict[str, Any], more: dict[str, Any]) -> None:
    assert read(row, **more) == ("Ann Lee is in U.S. .", FOUND)


@pytest.mark.parametrize(
    "entities",
    [
        [{"start": 14, "end": 18, "type": "LOC"}, {"start": 0, "end": 8, "label": "PER"}],
        [[0, 7, "PER"], [14, 18, "LOC"]],
        '[[0, 7, "PER"], [14, 18, "LOC"]]',
    ],
)
def test_entities_of_a_text_are_read_in_its_order_without_blanks_around(entities: Any) -> None:
    assert read({"text": TEXT["text"], "entities": entities}) == (TEXT["text"], FOUND)


def test_an_i_that_continues_nothing_is_counted() -> None:
    rows = rows_of()
    assert rows.entities is not None
    rows.item({**WORDS, "tags": ["I-PER", "I-PER", "O", "I-LOC", "I-PER", "O"]}, 1)
    assert rows.entities.strays == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**WORDS, "tags": ["O"]}, "row 1: 6 words and 1 tags"),
        ({**WORDS, "tags": ["B-PR", *WORDS["tags"][1:]]}, "did you mean PER?"),
        ({**WORDS, "tags": ["E-PER", *WORDS["tags"][1:]]}, "the tag 'E-PER' is not O, B- or I-"),
        ({**WORDS, "tags": [7] * 6}, "data.choices has 5 tags: 0 is O, 1 is B-PER"),
        ({"tokens": WORDS["tokens"]}, "no field tags or ner_tags or labels or ner"),
        ({"prompt": "x"}, "neither a list of words"),
        ({"tokens": [1, 2], "tags": ["O", "O"]}, "tokens is no list of texts"),
        ({**TEXT, "entities": [[0, 40, "PER"]]}, "from character 0 to 40 of a text of 18"),
        ({**TEXT, "entities": [[7, 7, "PER"]]}, "from character 7 to 7"),
        ({**TEXT, "entities": [[7, 8, "PER"]]}, "an entity of blanks alone"),
        ({**TEXT, "entities": [[0, 7, "PER"], [4, 7, "LOC"]]}, "the entities 'Ann Lee' and 'Lee' overlap"),
        ({**TEXT, "entities": [[0, 7, "ORG"]]}, "the tag 'ORG' is not"),
        ({**TEXT, "entities": [{"start": 0, "label": "PER"}]}, "without a start, an end or a label"),
        ({**TEXT, "entities": ["Ann"]}, "is no {start, end, label}"),
        ({**TEXT, "entities": 3}, "entities is no list"),
    ],
)
def test_what_is_wrong_in_a_row_is_an_error_that_names_it(row: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        rows_of().item(row, 1)
    assert said in str(error.value)
    assert error.value.fix


@pytest.mark.parametrize(
    ("row", "reason", "words"),
    [
        ({**TEXT, "entities": [[1, 7, "PER"]]}, "split_word", "begins or ends inside a word"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "blank_word", "with a word of blanks alone"),
        ({"tokens": ["a"], "tags": None}, "empty", "without a prompt or a response"),
        ({"text": " ", "entities": []}, "empty", "without a prompt or a response"),
    ],
)
def test_what_can_not_be_used_is_dropped_with_the_reason(row: dict[str, Any], reason: str, words: str) -> None:
    dropped = Dropped()
    assert len(list(rows_of().items([WORDS, row], dropped))) == 1
    assert dropped.counts == {reason: 1}
    assert words in dropped.text()
    assert "row 2" in dropped.text()


def test_rows_without_tags_are_the_teacher_s_where_that_is_wanted() -> None:
    rows = rows_of(unlabelled={"rows": 5})
    assert rows.item({"tokens": ["a", "b"]}, 1).row.response == ""
    assert rows.item({"text": "a b"}, 1).row.response == ""
    assert rows.item(WORDS, 1).row.response
    assert rows_of(response=None).item(WORDS, 1).row.response == ""
