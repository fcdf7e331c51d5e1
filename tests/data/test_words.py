"""Words of a text and their places among tokens: each has one, tags come back, and predict.py does the same."""

from __future__ import annotations

import importlib.util
import unicodedata
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer, tiny_wordpiece

from distill2edge.data.encode_tagged import encode_tagged, placed
from distill2edge.data.examples import Row
from distill2edge.data.words import cut_at_word, places_of, words_of
from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.tags import TagSet, entities_of, in_characters, in_words

TAGS = TagSet(["PER", "LOC"])
WORD = st.text(st.sampled_from("abnt .,'-éA1_東\u0301"), min_size=1, max_size=6).filter(words_of)
SENTENCES = st.lists(WORD, min_size=1, max_size=12)


@pytest.fixture(scope="module", params=["wordpiece", "bytes"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    (tiny_wordpiece if request.param == "wordpiece" else tiny_tokenizer)(folder)
    return load_tokenizer(folder)


@cache
def predict() -> ModuleType:
    path = Path(__file__).parents[2] / "distill2edge" / "handover" / "predict_onnx.py"
    spec = importlib.util.spec_from_file_location("predict", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ann's in Oslo.", ["Ann", "'", "s", "in", "Oslo", "."]),
        ("a_b@c.de", ["a_b", "@", "c", ".", "de"]),
        ("  ", []),
        ("東京 x", ["東", "京", "x"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
    ],
)
def test_words_are_runs_of_letters_and_single_marks(text: str, words: list[str]) -> None:
    assert [text[begin:end] for begin, end in words_of(text)] == words


@given(SENTENCES)
def test_every_word_has_its_own_token_or_continues_another(tokenizer: Any, sentence: list[str]) -> None:
    text = " ".join(sentence)
    ids, words, places = placed([text], tokenizer, 512)[0]
    own = [place for place in places if place >= 0]
    assert len(places) == len(words)
    assert sorted(set(own)) == own, "one token for each word, in their order"
    assert all(0 <= place < len(ids) for place in own)
    assert own or all(unicodedata.category(char)[0] in "MZ" for char in text), "marks alone may have no token"
    letters = [place for (begin, end), place in zip(words, places, strict=True) if text[begin:end].isascii()
               and text[begin:end].isalnum()]  # fmt: skip
    assert min(letters, default=0) >= 0, "every word of letters is read"


@given(SENTENCES, st.data())
def test_tags_come_back(sentence: list[str], draw: st.DataObject) -> None:
    text = " ".join(sentence)
    words = words_of(text)
    tags = draw.draw(st.lists(st.sampled_from(TAGS.names), min_size=len(words), max_size=len(words)))
    entities = list(entities_of(tags))
    indices = TAGS.tags(entities, len(words))
    assert TAGS.entities(indices) == entities
    characters = in_characters(entities, words)
    assert in_words(characters, words) == entities
    assert all(text[start:end].strip() == text[start:end] for start, end, _ in characters)


@given(SENTENCES, st.integers(1, 12))
def test_a_long_text_ends_after_a_whole_word(tokenizer: Any, sentence: list[str], room: int) -> None:
    text = " ".join(sentence)
    whole, _, places = placed([text], tokenizer, 512)[0]
    around = len(placed(["a"], tokenizer, 512)[0].ids) - len(tokenizer("a", add_special_tokens=False)["input_ids"])
    ids, _, kept = placed([text], tokenizer, room + around)[0]
    assert len(ids) <= room + around
    assert kept == places[: len(kept)]
    if len(ids) < len(whole) and len(kept) > 1:
        cut = len(ids) - (1 if around == 2 else 0)
        following = next((place for place in places[len(kept) :] if place >= 0), None)
        assert following is None or following >= cut, "no word that follows has lost its first token alone"
        assert following in (None, cut), "and the last word is whole"


@given(SENTENCES, st.integers(1, 12))
def test_predict_py_finds_the_same_words_and_places(tokenizer: Any, sentence: list[str], room: int) -> None:
    text, other = " ".join(sentence), predict()
    batch = tokenizer([text], add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = batch["input_ids"][0], batch["offset_mapping"][0]
    words = words_of(text)
    assert other.words_of(text) == words
    places = places_of(text, words, offsets)
    assert other.places_of(text, words, offsets) == places
    assert other.cut_at_word(ids, places, room) == cut_at_word(ids, places, room)


def test_rows_keep_their_count_of_words_when_they_are_cut(tokenizer: Any) -> None:
    row = Row("r", "the quick brown fox jumps over a lazy dog", "[]")
    (short,) = encode_tagged([row], tokenizer, 8)
    assert short.words == 9
    assert 0 < len(short.places) < 9
    assert len(short.ids) <= 8
    assert not any(short.mask)


def test_a_tokenizer_without_characters_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="which characters a token stands for"):
        placed(["a"], Slow(), 8)  # type: ignore[arg-type]


def test_a_word_without_a_token_continues_the_one_before() -> None:
    tags = TAGS.names.index
    found = TAGS.read([tags("B-PER"), tags("O")], [1, -1, 2], 3)
    assert found == [(0, 2, "PER")]
    assert TAGS.read([tags("O"), tags("B-LOC")], [1, -1, 2], 4) == [(2, 3, "LOC")], "beyond the cut nothing is found"


def test_a_head_without_b_begins_with_i() -> None:
    head = TagSet(["I-PER", "O", "B-LOC", "I-LOC"])
    entities = head.entities(head.tags([(0, 2, "PER"), (3, 4, "LOC")], 4))  # type: ignore[list-item]
    assert entities == [(0, 2, "PER"), (3, 4, "LOC")]


@pytest.mark.parametrize(
    ("choices", "said"), [(["O", "PER"], "'PER' is not O, B-TYPE or I-TYPE"), (["B-PER", "I-PER"], "have no O")]
)
def test_choices_that_are_no_tags_are_refused(choices: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TagSet(choices)
