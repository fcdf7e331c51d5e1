"""What a reasoning model thinks aloud, kept apart from what it answers."""

from __future__ import annotations

import re

UNCLOSED = "thinking without an end"
"""Why a text is dropped whose thinking never ended."""
# Qwen, DeepSeek and others, Seed; Magistral; Kimi; gpt-oss, where a server did not take its channels apart. Alone on
# purpose: a prompt may ask for other tags as part of the answer.
_MARKS = re.compile(
    r"(?P<open><(?:seed:)?(?:think|thinking|thought)(?:\s[^<>]{0,200})?>|\[THINK\]|◁think▷"
    r"|<\|channel\|>(?:analysis|commentary)<\|message\|>)"
    r"|(?P<close></(?:seed:)?(?:think|thinking|thought)\s*>|\[/THINK\]|◁/think▷"
    r"|(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>)",
    re.IGNORECASE,
)


def split_thinking(text: str) -> tuple[str, str, bool]:
    """An answer without its thinking, the thinking, and whether a passage of it has no end.

    A closing mark without an opening one ends a passage that began in the prompt, as some chat templates have it.
    Thinking that has no end may hold the answer or not: nothing of it is one.
    """
    said: list[str] = []
    thought: list[str] = []
    within, at = False, 0
    for mark in _MARKS.finditer(text):
        passage, at = text[at : mark.start()], mark.end()
        if mark["close"] and not within:
            thought += [*said, passage]
            said = []
            continue
        (thought if within else said).append(passage)
        within = bool(mark["open"])
    (thought if within else said).append(text[at:])
    if not thought:
        return text, "", within
    return "".join(said).strip(), "\n".join(filter(None, map(str.strip, thought))), within
