"""Separates a reasoning model's thinking from its answer."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

UNCLOSED = "thinking without an end"
"""Why a text is dropped whose thinking never ended."""


@dataclass(frozen=True)
class _Marks:
    """How models mark thinking; regular expressions.

    Attributes:
        anywhere: a passage may also begin after some of the answer; else at its start alone, since a prompt may ask
            for such tags as part of the answer.
    """

    begin: str
    end: str
    anywhere: bool = True


_FAMILIES = (
    # Qwen, DeepSeek and others; Seed.
    _Marks(r"<(?:seed:)?think(?:ing)?(?:\s[^<>]{0,200})?>", r"</(?:seed:)?think(?:ing)?\s*>"),
    _Marks(r"<thought(?:\s[^<>]{0,200})?>", r"</thought\s*>", anywhere=False),
    # Prompts ask for reasoning with an answer in tags too, which is not thinking aloud (`_ASKED_FOR`).
    _Marks(r"<reasoning>", r"</reasoning\s*>", anywhere=False),
    _Marks(r"\[THINK\]", r"\[/THINK\]"),  # Magistral
    _Marks(r"◁think▷", r"◁/think▷"),  # Kimi
    _Marks(r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),  # Cohere
    _Marks(r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),  # OpenThinker, Sky
    _Marks(r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    _Marks(  # gpt-oss, where a server did not take its channels apart
        r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)\b[^<]{0,200}"
        r"(?:<\|constrain\|>[^<]{0,40})?<\|message\|>",
        r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final\b[^<]{0,40}<\|message\|>",
    ),
    _Marks(r"<\|channel>(?:thought|thinking|analysis)\b", r"<channel\|>"),  # Gemma
)
_MARK = re.compile(
    "|".join(f"(?P<b{index}>{marks.begin})|(?P<e{index}>{marks.end})" for index, marks in enumerate(_FAMILIES)),
    re.IGNORECASE,
)
# gpt-oss, of whose channels a server dropped the special tokens.
_BARE = re.compile(r"\Aanalysis(?P<thought>[^a-z\s].*?)(?:assistant)?assistantfinal(?P<said>.*)\Z", re.DOTALL)
# What stands around the answer itself.
_OPENS = re.compile(r"\A\s*<\|(?:START_RESPONSE|START_TEXT|begin_of_solution)\|>\s*", re.IGNORECASE)
_CLOSES = re.compile(
    r"\s*<\|(?:END_RESPONSE|END_TEXT|end_of_solution|return|end|END_OF_TURN_TOKEN)\|>\s*\Z", re.IGNORECASE
)
_LINE = 2000  # characters before and after a mark in which its quotes are looked for
_REASONING = next(index for index, marks in enumerate(_FAMILIES) if "reasoning" in marks.begin)
_ASKED_FOR = re.compile(r"</reasoning\s*>\s*<answer\b", re.IGNORECASE)
_FENCE = re.compile(r"^ {0,3}(?:```|~~~)", re.MULTILINE)
_PAIRS = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "«": "»", "„": "“"}  # noqa: RUF001  # fmt: skip


def split_thinking(text: str) -> tuple[str, str, bool]:
    """An answer without its thinking, the thinking, and whether a passage of it has no end.

    A closing mark without an opening one ends a passage that began in the prompt, as some chat templates have it.
    Thinking without an end may or may not contain the answer, so none is taken from it. Marks in code or in quotes are
    part of the answer. A text without marks comes back as it is.

    Returns:
        answer, thinking, whether thinking has no end.
    """
    if (bare := _BARE.match(text)) is not None:
        return bare["said"].strip(), bare["thought"].strip(), False
    said: list[str] = []
    thought: list[str] = []
    family: int | None = None
    fences = [fence.start() for fence in _FENCE.finditer(text)]
    started = False  # whether something of the answer was said since the last thinking
    passed = 0
    part_of_answer: set[int] = set()  # families of which a mark was let stand, and its end not met yet
    asked_for = _REASONING if _ASKED_FOR.search(text) is not None else None
    at = begin = 0  # of the present passage; of the answer since the last thinking
    for mark in _MARK.finditer(text):
        kind = str(mark.lastgroup)
        index, opens = int(kind[1:]), kind[0] == "b"
        if index == asked_for:
            continue
        if family is not None and (index != family or _between_quotes(text, mark)):
            continue  # within thinking its own end counts, and nothing else
        if family is None and _is_mentioned(text, mark, begin, fences):
            continue
        if family is None:
            started = started or bool(text[max(at, passed) : mark.start()].strip())
            passed = mark.end()
        if family is None and opens and started and not _FAMILIES[index].anywhere:
            part_of_answer.add(index)
        if index in part_of_answer:
            if not opens:
                part_of_answer.discard(index)
            continue
        passage, at = text[at : mark.start()], mark.end()
        if family is None and not opens:
            thought += [*said, passage]
            said, started = [], False
        else:
            (said if family is None else thought).append(passage)
        family, begin = (index, begin) if opens else (None, at)
    (thought if family is not None else said).append(text[at:])
    if not thought and not _OPENS.match(text):
        return text, "", family is not None
    answer = _CLOSES.sub("", _OPENS.sub("", "".join(said)))
    return answer.strip(), "\n".join(filter(None, map(str.strip, thought))), family is not None


def split_tokens(ids: Sequence[int], tokenizer: Any) -> tuple[str, str, bool]:
    """As `split_thinking`, of what a model wrote: its marks may be special tokens, which a plain text does not have.

    Args:
        tokenizer: of transformers, or of llama.cpp (`runtimes.llama_tokenizer`).
    """
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    if not _MARK.search(whole) and not _OPENS.match(whole):
        return split_thinking(tokenizer.decode(ids, skip_special_tokens=True))
    text, thinking, unclosed = split_thinking(whole)
    for token in dict.fromkeys(ids):
        special = tokenizer.decode([token], skip_special_tokens=False)
        if special and not tokenizer.decode([token], skip_special_tokens=True):
            text, thinking = text.replace(special, ""), thinking.replace(special, "")
    return text.strip(), thinking.strip(), unclosed


def _is_mentioned(text: str, mark: re.Match[str], begin: int, fences: Sequence[int]) -> bool:
    """Whether a mark is only mentioned: in quotes, or in code that begins and ends in the answer."""
    if _between_quotes(text, mark):
        return True
    first, last = max(begin, mark.start() - _LINE), min(len(text), mark.end() + _LINE)
    line, end = text.rfind("\n", first, mark.start()) + 1 or first, text.find("\n", mark.end(), last)
    end = last if end < 0 else end
    for quote in ('"', "`"):
        if text.count(quote, line, mark.start()) % 2 and text.find(quote, mark.end(), end) >= 0:
            return True
    opened = bisect_left(fences, mark.start()) - bisect_left(fences, begin)
    return opened % 2 == 1 and bool(fences) and fences[-1] >= mark.end()


def _between_quotes(text: str, mark: re.Match[str]) -> bool:
    before = text[mark.start() - 1 : mark.start()]
    return before in _PAIRS and text[mark.end() : mark.end() + 1] == _PAIRS[before]
