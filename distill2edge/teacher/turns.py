"""Which turns of a conversation the teacher writes: the last, or every one, its own answers before the later ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from distill2edge.data.conversation import Conversation, Message, opened
from distill2edge.generation.generate import Answer, Ask, drop_reason

Write = Callable[[Sequence[Ask], int], list[Answer]]
"""Asks and the number of the turn -> an answer to each."""


@dataclass
class Written:
    """A conversation that the teacher writes.

    Attributes:
        prompt: what the last answer answers, with the teacher's own earlier answers where it writes them.
        answer: the last one; of a conversation that went wrong earlier the one that did. Its counts and its cost are
            those of all turns.
        left: where the earlier answers are that it has yet to write.
    """

    prompt: str
    tag: str = ""
    answer: Answer | None = None
    left: list[int] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether a later turn can follow."""
        return self.answer is None or (not drop_reason(self.answer.finish) and bool(self.answer.text.strip()))

    def take(self, answer: Answer) -> None:
        """Count an answer as the latest."""
        before = self.answer or Answer("", "stop", 0, 0)
        self.answer = replace(
            answer,
            prompt_tokens=before.prompt_tokens + answer.prompt_tokens,
            tokens=before.tokens + answer.tokens,
            cost_usd=before.cost_usd + answer.cost_usd,
        )


def earlier_answers(prompt: str) -> list[int]:
    """Where the teacher writes in a prompt: the assistant's messages that call no tool, whose results follow them."""
    chat = opened(prompt)
    return [number for number in chat.answers if "tool_calls" not in chat.messages[number]]


def write_turns(
    prompts: Sequence[tuple[str, str]], turns: str, head: tuple[tuple[str, str], ...], write: Write
) -> list[Written]:
    """The teacher's answers to each prompt, turn by turn; all conversations go forward together.

    Args:
        prompts: of rows, each with the tag that tells its samples apart.
        turns: as `signal.turns`.
        head: turns before each prompt.
    """
    found = [Written(prompt, tag, left=earlier_answers(prompt) if turns == "all" else []) for prompt, tag in prompts]
    turn = 0
    while waiting := [item for item in found if item.left and item.usable]:
        asks = [Ask((*head, ("user", _up_to(item.prompt, item.left[0]))), item.tag) for item in waiting]
        for item, answer in zip(waiting, write(asks, turn), strict=True):
            item.take(answer)
            item.prompt = _with_answer(item.prompt, item.left.pop(0), answer.text)
        turn += 1
    last = [item for item in found if item.usable]
    asks = [Ask((*head, ("user", item.prompt)), item.tag) for item in last]
    for item, answer in zip(last, write(asks, turn) if asks else [], strict=True):
        item.take(answer)
    return found


def _up_to(prompt: str, number: int) -> str:
    chat = opened(prompt)
    return Conversation(chat.messages[:number], chat.tools).text()


def _with_answer(prompt: str, number: int, text: str) -> str:
    chat = opened(prompt)
    answer: Message = {"role": "assistant", "content": text}
    return Conversation((*chat.messages[:number], answer, *chat.messages[number + 1 :]), chat.tools).text()
