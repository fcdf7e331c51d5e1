"""Encoding: what is supervised, at which position, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import CHAT_TEMPLATE, tiny_tokenizer

from distill2edge.data.encode import encode_choices, encode_prompts, encode_rows
from distill2edge.data.examples import Row, example_id, row_id
from distill2edge.data.pairs import encode_pairs
from distill2edge.data.tokens import end_token_id, stop_token_ids, wants_bos
from distill2edge.errors import UserError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(directory)
    return AutoTokenizer.from_pretrained(directory)


@pytest.fixture
def bare(tokenizer: Any) -> Any:
    """The tokenizer without a chat template, for one test."""
    tokenizer.chat_template = None
    yield tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE


def row(prompt: str, response: str, label: int = -1) -> Row:
    return Row(row_id(prompt, response), prompt, response, label)


def test_chat_supervises_the_response_and_its_end_token(tokenizer: Any) -> None:
    (example,) = encode_rows([row("good film", "fine", 1)], tokenizer, "chat", None, 100)
    supervised = [token for token, on in zip(example.ids, example.mask, strict=True) if on]
    assert tokenizer.decode(supervised) == "fine<|im_end|>"
    assert tokenizer.decode(example.ids[: example.prompt_length]).endswith("<|im_start|>assistant\n")
    assert example.label == 1
    assert example.supervised == len(supervised)


def test_the_end_token_is_supervised_although_it_is_the_padding_token(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    (example,) = encode_rows([row("a", " b")], tokenizer, "plain", None, 100)
    assert example.ids[-1] == 2
    assert example.mask[-1]


def test_template_text_supervises_every_token_but_the_first(tokenizer: Any) -> None:
    (example,) = encode_rows([row("", "the quick brown fox")], tokenizer, "text", None, 100)
    assert example.mask == [False] + [True] * (len(example.ids) - 1)
    assert tokenizer.decode(example.ids) == "the quick brown fox<|im_end|>"


def test_the_first_token_of_all_is_never_supervised_without_a_prompt(tokenizer: Any) -> None:
    (example,) = encode_rows([row("", " music")], tokenizer, "plain", None, 100)
    assert not example.mask[0]
    assert example.supervised == len(example.ids) - 1


def test_system_message_comes_first(tokenizer: Any) -> None:
    (example,) = encode_rows([row("hi", "ho")], tokenizer, "chat", "be brief", 100)
    assert tokenizer.decode(example.ids).startswith("<|im_start|>system\nbe brief<|im_end|>")


def test_bos_only_where_the_tokenizer_puts_one(tokenizer: Any, tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    assert not wants_bos(tokenizer)
    tiny_tokenizer(tmp_path)
    with_bos = AutoTokenizer.from_pretrained(tmp_path)
    with_bos.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    assert wants_bos(with_bos)
    (plain,) = encode_rows([row("a", " b")], with_bos, "plain", None, 100)
    assert plain.ids[0] == 1
    assert plain.ids.count(1) == 1
    assert encode_prompts(["a"], with_bos, "plain")[0] == plain.ids[: plain.prompt_length]
    # A chat template writes its own.
    (chat,) = encode_rows([row("a", "b")], with_bos, "chat", None, 100)
    assert chat.ids[:2] != [1, 1]


def test_prompt_ids_are_what_generation_continues(tokenizer: Any) -> None:
    rows = [row(f"review {n}", "fine") for n in range(5)]
    for template in ("chat", "plain"):
        prompts = encode_prompts([r.prompt for r in rows], tokenizer, template)
        examples = encode_rows(rows, tokenizer, template, None, 100)
        assert [example.ids[: example.prompt_length] for example in examples] == prompts


def test_choices_are_the_tokens_that_training_supervises(tokenizer: Any) -> None:
    item = row("Review: fine film\nSentiment:", " bad")
    good, bad = encode_choices(item, [" good", " bad"], tokenizer, "plain")
    (example,) = encode_rows([item], tokenizer, "plain", None, 100)
    assert example.ids[example.prompt_length :] == [*bad, 2]
    assert good != bad
    assert encode_choices(item, [" bad"], tokenizer, "plain", end=True) == [[*bad, 2]]


def test_a_prompt_whose_tokens_change_with_the_response_is_refused_with_the_fix(tokenizer: Any) -> None:
    # " and" is one token, so "the " + "and" is not "the " and then "and".
    assert len(tokenizer("the and").input_ids) < len(tokenizer("the ").input_ids + tokenizer("and").input_ids)
    with pytest.raises(UserError, match="changes the tokens") as caught:
        encode_rows([row("the ", "and")] * 3, tokenizer, "plain", None, 100)
    assert "space" in caught.value.fix
    counts: Counter[str] = Counter()
    rows = [row("the ", "and"), *(row(f"the {n}", " and") for n in range(3))]
    examples = encode_rows(rows, tokenizer, "plain", None, 100, counts=counts)
    assert counts["boundary"] == 1
    assert examples[0].ids[: examples[0].prompt_length] == encode_prompts(["the "], tokenizer, "plain")[0]


def test_long_rows_are_dropped_and_counted_and_none_left_is_an_error(tokenizer: Any) -> None:
    counts: Counter[str] = Counter()
    rows = [row("a", " b"), row("a " * 200, " b")]
    examples = encode_rows(rows, tokenizer, "plain", None, 50, counts=counts)
    assert len(examples) == 1
    assert counts["too_long"] == 1
    assert counts["rows"] == 2
    assert counts["supervised_tokens"] == sum(example.supervised for example in examples)
    with pytest.raises(UserError, match="longer than 8 tokens"):
        encode_rows(rows[1:], tokenizer, "plain", None, 8)
    assert encode_rows([], tokenizer, "plain", None, 8) == []


@pytest.fixture(scope="module")
def words() -> Any:
    """A vocabulary of four words: anything else is the unknown token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = models.WordLevel({"[UNK]": 0, "</s>": 1, "good": 2, "film": 3, "fine": 4, "bad": 5}, unk_token="[UNK]")
    built = Tokenizer(model)
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=built, unk_token="[UNK]", eos_token="</s>", pad_token="</s>")


def test_a_response_that_the_student_cannot_write_is_dropped_and_counted(words: Any) -> None:
    counts: Counter[str] = Counter()
    rows = [row("good film", " fine"), row("good film", " \u826f\u3044"), row("a strange prompt", " bad")]
    examples = encode_rows(rows, words, "plain", None, 50, counts=counts)
    assert [example.row for example in examples] == [rows[0].id, rows[2].id]  # what is read may be unknown
    assert counts["unencodable"] == 1
    with pytest.raises(UserError, match="1 whose response the student's tokenizer cannot encode") as caught:
        encode_rows(rows[1:2], words, "plain", None, 50)
    assert caught.value.where == "student.init"


def test_pairs_drop_a_target_that_cannot_be_written(words: Any) -> None:
    counts: Counter[str] = Counter()
    rows = [row("good film", "fine"), row("good film", "\u826f\u3044")]
    assert [pair.row for pair in encode_pairs(rows, words, 50, counts=counts)] == [rows[0].id]
    assert counts["unencodable"] == 1


def test_no_chat_template_is_a_user_error_with_the_fix(bare: Any) -> None:
    with pytest.raises(UserError, match="no chat template") as caught:
        encode_rows([row("a", "b")], bare, "chat", None, 100)
    assert "plain" in caught.value.fix
    assert encode_rows([row("a", " b")], bare, "plain", None, 100)


def test_a_template_that_refuses_a_system_message_says_so(bare: Any) -> None:
    bare.chat_template = "{{ raise_exception('no system role') if messages[0]['role'] == 'system' }}x"
    with pytest.raises(UserError, match="no system role") as caught:
        encode_rows([row("a", "b")], bare, "chat", "be brief", 100)
    assert "data.system" in caught.value.fix


def test_a_turn_that_ends_with_another_token_than_eos(bare: Any) -> None:
    assert end_token_id(bare, "plain") == 2
    bare.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['content'] }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    assert end_token_id(bare, "chat") == 0
    assert stop_token_ids(bare, "chat") == (0, 2)
    (example,) = encode_rows([row("a", "b")], bare, "chat", None, 100)
    assert example.ids[-1] == 0


def test_ids_tell_examples_apart_by_tokens_and_mask() -> None:
    assert example_id([1, 2, 3], [False, True, True]) == example_id((1, 2, 3), (False, True, True))
    assert example_id([1, 2, 3], [False, True, True]) != example_id([1, 2, 3], [False, False, True])
    assert example_id([1, 2, 3], [False, True, True]) != example_id([1, 2, 4], [False, True, True])
    assert row_id("ab", "c") != row_id("a", "bc")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompt=st.text(max_size=40), response=st.text(min_size=1, max_size=40), template=st.sampled_from(["chat", "plain"])
)
def test_any_text_decodes_back_and_supervises_its_response(
    tokenizer: Any, prompt: str, response: str, template: str
) -> None:
    rows = [row(prompt, response), row("a", " b"), row("c", " d")]  # the others are stable: one boundary is no error
    example = encode_rows(rows, tokenizer, template, None, 1000)[0]
    assert not example.mask[0]
    assert example.supervised > 0
    first = example.prompt_length
    assert example.mask == [False] * first + [True] * (len(example.ids) - first)
    if first and (prompt or template == "chat"):
        assert tokenizer.decode(example.ids[first:-1], clean_up_tokenization_spaces=False) == response
