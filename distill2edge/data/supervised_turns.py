"""Rows to pieces of text, each supervised or not: the turns of the assistant, by marks or by prefix difference."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from distill2edge.data.chat_templates import apply_template, chat_template_of, portable
from distill2edge.data.conversation import Conversation, Message, answer_of, is_chat, opened
from distill2edge.errors import UserError
from distill2edge.templating.chat_template import BEGIN, END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Piece = tuple[str, bool]
"""Text, and whether it is supervised."""

_MARKED = re.compile(f"{BEGIN}(.*?){END}", re.DOTALL)
_THINK = "<think>"


class Turns:
    """Conversations as one tokenizer's chat template writes them.

    Args:
        stop: text of the token that ends a message of the assistant; empty where there is none.
        supervise: as `data.encode.encode_rows`.

    Raises:
        UserError: there is no chat template; or marks are asked for, and it has none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: str, supervise: str) -> None:
        self._tokenizer, self._stop, self._supervise = tokenizer, stop, supervise
        if supervise == "marked" and not _has_marks(chat_template_of(tokenizer) or ""):
            raise UserError(
                "the tokenizer's chat template has no {% generation %} marks",
                where="data.supervise",
                fix="set data.supervise: all, which finds the assistant's turns by what the template adds for each",
            )

    def pieces(self, prompt: str, response: str, system: str | None) -> list[Piece]:
        """A row in turns; joined they are the row's text, without the stop of the response.

        Args:
            prompt, response: of a row, as `data.conversation` writes them.

        Raises:
            UserError: the template refuses the messages, writes no tools or tool calls, or writes an answer otherwise
                than one can tell.
        """
        chat = opened(prompt, system)
        before = self._render(chat, generation=True)
        if chat.tools and before == self._render(Conversation(chat.messages), generation=True):
            raise _unwritten("the tools of the row", "tools")
        pieces = [(before, False)]
        if self._supervise in ("all", "marked") and is_chat(prompt) and chat.answers:
            pieces = self._split(chat, before)
        return [*pieces, (self._answer(chat, before, answer_of(response)), True)]

    def _split(self, chat: Conversation, before: str) -> list[Piece]:
        """The text before the last answer, with the earlier answers apart."""
        if _has_marks(chat_template_of(self._tokenizer, tools=bool(chat.tools)) or ""):
            spans = self._marked(chat, before)
        else:
            spans = [self._span(chat, before, number) for number in chat.answers]
        pieces, done = [], 0
        for number, (begin, end) in zip(chat.answers, spans, strict=True):
            _require(before[begin:end], chat.messages[number], self._stop)
            pieces += [(before[done:begin], False), (before[begin:end], True)]
            done = end
        return [*pieces, (before[done:], False)]

    def _marked(self, chat: Conversation, before: str) -> list[tuple[int, int]]:
        shown = self._render(chat, generation=True, marks=True)
        if shown.replace(BEGIN, "").replace(END, "") != before:
            raise _untold("its generation marks change what it writes")
        spans = []
        for count, found in enumerate(_MARKED.finditer(shown)):
            begin = found.start() - count * len(BEGIN + END)
            end = begin + len(found[1])
            # Some templates leave the stop outside of the marks: without it the student would never learn to end.
            spans.append((begin, end + len(self._stop) * before.startswith(self._stop, end)))
        if len(spans) != len(chat.answers):
            raise _untold(f"it marks {len(spans)} of {len(chat.answers)} answers")
        return spans

    def _span(self, chat: Conversation, before: str, number: int) -> tuple[int, int]:
        """Where an earlier answer stands: after what the template writes up to it, and up to its stop."""
        asked = self._render(Conversation(chat.messages[:number], chat.tools), generation=True)
        if not before.startswith(asked):
            raise _untold("what it writes before an answer changes with what comes later")
        begin = len(asked)
        if self._stop:
            end = before.find(self._stop, begin)
            if end >= 0:
                return begin, end + len(self._stop)
        whole = self._render(Conversation(chat.messages[: number + 1], chat.tools), generation=False)
        if not before.startswith(whole):
            raise _untold("an answer changes with what comes later")
        return begin, len(whole)

    def _answer(self, chat: Conversation, before: str, message: Message) -> str:
        """What follows the prompt, without its stop.

        A plain answer is what it says, as generation continues a prompt; what else a message has is written by the
        template, by its difference to the prompt.
        """
        content = str(message["content"])
        thought = str(message.get("reasoning_content", ""))
        if thought:
            content = f"<think>\n{thought}\n</think>\n\n{content}"
        if before.rstrip().endswith(_THINK) and content.lstrip().startswith(_THINK):
            content = content.lstrip().removeprefix(_THINK).lstrip("\n")
        if message.keys() <= {"role", "content"}:
            return content
        whole = self._render(Conversation((*chat.messages, message), chat.tools), generation=False)
        if whole.startswith(before):
            told = whole[len(before) :].partition(self._stop)[0] if self._stop else whole[len(before) :]
            if all(text in told for text in _parts(message)):
                return told
        if "tool_calls" in message:
            raise _unwritten(f"the call of {message['tool_calls'][0]['function']['name']!r}", "tool_calls")
        return content

    def _render(self, chat: Conversation, *, generation: bool, marks: bool = False) -> str:
        return apply_template(self._tokenizer, chat, generation=generation, marks=marks)


def _has_marks(template: str) -> bool:
    return portable(template) != template


def _parts(message: Message) -> list[str]:
    """What a message of the assistant says and calls: it stands in its text, whatever the template puts around."""
    calls = [call["function"]["name"] for call in message.get("tool_calls", ())]
    thought = message.get("reasoning_content") or ""
    return [text for text in (thought.strip(), str(message["content"]).strip(), *calls) if text]


def _require(text: str, message: Message, stop: str) -> None:
    """Refuse a turn that is not what its message says and the stop."""
    said = {**message, "reasoning_content": ""}  # templates leave out what was thought in earlier turns
    content = str(message["content"])
    if _THINK in content:
        said["content"] = content.rpartition("</think>")[2]
    bare = text.removesuffix(stop).strip() if stop else text.strip()
    plain = message.keys() <= {"role", "content"} and _THINK not in content
    if bare != content.strip() if plain else any(part not in bare for part in _parts(said)):
        raise _untold(f"it writes the answer {content[:60]!r} as {text[:80]!r}")


def _untold(why: str) -> UserError:
    return UserError(
        f"the earlier turns of the assistant can't be told in the chat template's text: {why}",
        where="data.supervise",
        fix="set data.supervise: last, or leave such rows out with data.filter",
    )


def _unwritten(what: str, key: str) -> UserError:
    return UserError(
        f"the tokenizer's chat template leaves out {what}",
        where="data.template",
        fix=f"take a model whose template writes {key}, or leave such rows out with data.filter",
    )
