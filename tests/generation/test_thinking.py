"""Thinking is kept apart from the answer in every form of its marks, and an answer without it is never changed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from distill2edge.generation.thinking import split_thinking, split_tokens
from distill2edge.models.checkpoint import load_tokenizer

FORMS = {
    "qwen": ("<think>", "</think>"),
    "qwen blanks": ("<think>\n", "\n</think>\n\n"),
    "attributes": ('<think budget="5">', "</think >"),
    "thinking": ("<thinking>", "</thinking>"),
    "capitals": ("<THINK>", "</THINK>"),
    "thought": ("<thought>", "</thought>"),
    "reasoning": ("<reasoning>", "</reasoning>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "magistral": ("[THINK]", "[/THINK]"),
    "kimi": ("◁think▷", "◁/think▷"),
    "cohere": ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    "cohere alone": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "openthinker": ("<|begin_of_thought|>", "<|end_of_thought|>\n\n<|begin_of_solution|>"),
    "apertus": ("<|inner_prefix|>", "<|inner_suffix|>"),
    "gpt-oss": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "gpt-oss commentary": (
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>",
        "<|start|>assistant<|channel|>final<|message|>",
    ),
    "gpt-oss bare": ("analysis", "assistantfinal"),
    "gemma": ("<|channel>thought\n", "<channel|>"),
}
ENDS = {
    "cohere": "<|END_RESPONSE|>",
    "openthinker": "<|end_of_solution|>",
    "gpt-oss": "<|return|>",
    "gpt-oss commentary": "<|end|>",
}
ANSWER = "It is **four**: `2 + 2`, and 3 < 4 > 1 [see]."


@pytest.mark.parametrize("form", FORMS)
def test_every_form(form: str) -> None:
    opening, closing = FORMS[form]
    text = f"{opening}We add. <b>No</b>\nDone{closing}{ANSWER}{ENDS.get(form, '')}"
    assert split_thinking(text) == (ANSWER, "We add. <b>No</b>\nDone", False)
    assert split_thinking(f"\n {text}")[0] == ANSWER or form == "gpt-oss bare"


@pytest.mark.parametrize("form", [form for form in FORMS if form != "gpt-oss bare"])
def test_a_passage_without_an_end_or_a_beginning(form: str) -> None:
    opening, closing = FORMS[form]
    assert split_thinking(f"{opening}We add, and") == ("", "We add, and", True)
    assert split_thinking(f"We add.{closing}{ANSWER}{ENDS.get(form, '')}") == (ANSWER, "We add.", False)
    assert split_thinking(f"{closing}{ANSWER}") == (ANSWER, "", False)
    assert split_thinking(f"{opening}{closing}{ANSWER}")[0::2] == (ANSWER, False)
    nested = f"{opening}a{opening}b{closing}c{closing}{ANSWER}"
    assert split_thinking(nested)[0::2] == (ANSWER, False)
    assert "b" in split_thinking(nested)[1]


def test_other_marks_within_thinking_are_thought() -> None:
    text = '<think>I may write <reasoning>x</reasoning> or "</think>" here.</think>four'
    assert split_thinking(text) == ("four", 'I may write <reasoning>x</reasoning> or "</think>" here.', False)


MENTIONS = [
    "The tag `<think>` opens it, and `</think>` ends it.",
    'Write "<think>" first, then "</think>".',
    "Write '<think>' first.",
    'It prints "<think>so</think>" at the start.',
    "Use `<|channel|>analysis<|message|>` for that.",
    "Like this:\n\n```xml\n<think>\n  steps\n</think>\n```\n\nand no other way.",
    "Code:\n```python\nopen = '<think>'\nend = '</think>'\n```",
    "An element <thought>x</thought> of your document.",
    "Then <reasoning>x</reasoning> follows.",
    "<reasoning>2 + 2</reasoning>\n<answer>4</answer>",
    "analysis of the final: assistantfinal is a word",
    "final<|message|>",
    "<thin> [THIN] <|channel|>other",
]


@pytest.mark.parametrize("text", MENTIONS)
def test_answers_that_speak_of_marks_stay_as_they_are(text: str) -> None:
    assert split_thinking(text) == (text, "", False)
    assert split_thinking(f"<think>hm</think>{text}") == (text, "hm", False)


@given(st.lists(st.sampled_from([*"<>|/[]`'\"\n thinkTHINKchannel", "think", "<|", "|>", "</", "analysis", "final"])))
def test_text_without_marks_is_never_changed(parts: list[str]) -> None:
    text = "".join(parts)
    bare = text.lower()
    if any(mark.strip().lower() in bare for pair in FORMS.values() for mark in pair if len(mark) > 14):
        return
    if any(name in bare for name in ("<think", "/think", "[think]", "<|channel")):
        return
    assert split_thinking(text) == (text, "", False)


@given(st.text(), st.text(), st.sampled_from(sorted(set(FORMS) - {"gpt-oss bare"})))
def test_any_thinking_before_any_answer(thinking: str, answer: str, form: str) -> None:
    opening, closing = FORMS[form]
    plain = str.maketrans("", "", "<>[]|◁▷`\"'“‘«„")  # noqa: RUF001
    thinking, answer = thinking.translate(plain), answer.translate(plain)
    found = split_thinking(f"{opening} {thinking} {closing} {answer}")
    assert found == (answer.strip(), thinking.strip(), False)


def test_marks_that_are_special_tokens(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    marks = ["<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|START_THINKING|>", "<|END_THINKING|>", "<|odd|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    oss = "<|channel|>analysis<|message|>the dog<|end|><|start|>assistant<|channel|>final<|message|>a film<|odd|>"
    for text, answer, thinking in (
        (oss, "a film", "the dog"),
        ("<|START_THINKING|>the dog<|END_THINKING|>a film", "a film", "the dog"),
        ("the dog<|odd|> and a film ", "the dog and a film ", ""),
    ):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert split_tokens(ids, tokenizer) == (answer, thinking, False)
    ids = tokenizer("<|START_THINKING|>the dog", add_special_tokens=False)["input_ids"]
    assert split_tokens(ids, tokenizer) == ("", "the dog", True)


@pytest.mark.parametrize(
    "text",
    [
        "<reasoning>" * 40_000,
        "<think>x</think>" * 20_000,
        "</think>" * 40_000,
        "analysis!" + "assistant" * 40_000,
        "`<think>` " * 30_000,
        "x\n```\n<think>\n" * 10_000,
        '"<think>"\n' * 30_000,
        "<|channel|>analysis" * 20_000,
        "a<thought>" * 30_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    start = time.process_time()
    split_thinking(text)
    assert time.process_time() - start < 2
