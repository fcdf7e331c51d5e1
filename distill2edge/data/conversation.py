"""A conversation as one text: so it goes wherever a prompt goes, into rows, hashes, caches and ledgers, and back.

A prompt of one user's message is that message. What has more (turns, a system message, tools) is written in one
canonical form behind a mark, and whoever renders or shows a prompt opens it here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
"""`role` (system, user, assistant or tool) and `content`; of the assistant also `reasoning_content` and `tool_calls`
[{type, function: {name, arguments}}], of a tool `name` and `tool_call_id`."""

MARK = "\u2402chat\u2403"
_ANSWER = "\u2402answer\u2403"


@dataclass(frozen=True)
class Conversation:
    """Messages, and the tools that the model may call.

    Attributes:
        tools: as JSON schemas of functions: {type: function, function: {name, description, parameters}}.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def answers(self) -> list[int]:
        """Where the assistant's messages are."""
        return [index for index, message in enumerate(self.messages) if message["role"] == "assistant"]

    def text(self) -> str:
        """The conversation as a prompt: the message itself where it is the user's alone."""
        first = self.messages[0]
        plain = first.keys() == {"role", "content"} and first["role"] == "user"
        if plain and len(self.messages) == 1 and not self.tools:
            return str(first["content"])
        return MARK + _dumps({"messages": self.messages, "tools": self.tools})


def opened(prompt: str, system: str | None = None) -> Conversation:
    """What a prompt says.

    Args:
        system: message of the system, for a conversation that begins with none.
    """
    if prompt.startswith(MARK):
        found = json.loads(prompt[len(MARK) :])
        chat = Conversation(tuple(found["messages"]), tuple(found["tools"]))
    else:
        chat = Conversation(({"role": "user", "content": prompt},))
    if system and chat.messages[0]["role"] != "system":
        return Conversation(({"role": "system", "content": system}, *chat.messages), chat.tools)
    return chat


def is_chat(prompt: str) -> bool:
    """Whether a prompt is more than one message of the user."""
    return prompt.startswith(MARK)


def opened_turns(turns: Iterable[tuple[str, str]]) -> Conversation:
    """Turns of (role, prompt) as one conversation: where a prompt is a conversation of its own, its messages follow."""
    messages: list[Message] = []
    tools: tuple[Mapping[str, Any], ...] = ()
    for role, content in turns:
        if role == "user" and is_chat(content):
            chat = opened(content)
            own = chat.messages[0]["role"] == "system" and messages[:1] and messages[0]["role"] == "system"
            messages = [*(messages[1:] if own else messages), *chat.messages]
            tools = chat.tools or tools
        else:
            messages.append({"role": role, "content": content})
    return Conversation(tuple(messages), tools)


def answer_text(message: Message) -> str:
    """A message of the assistant as a response: what it says, where it does nothing else."""
    if message.keys() <= {"role", "content"}:
        return str(message["content"])
    return _ANSWER + _dumps(message)


def answer_of(response: str) -> Message:
    """The message that a response is."""
    if response.startswith(_ANSWER):
        return dict(json.loads(response[len(_ANSWER) :]))
    return {"role": "assistant", "content": response}


def plain_answer(response: str) -> str:
    """A response in words, for people and for checks: what it says, and what it calls."""
    return _said(answer_of(response)) if response.startswith(_ANSWER) else response


def plain_prompt(prompt: str) -> str:
    """A prompt in words, for people and for checks: of a conversation each message after its role."""
    if not is_chat(prompt):
        return prompt
    return "\n".join(f"{message['role']}: {_said(message)}" for message in opened(prompt).messages)


def shorter(prompt: str) -> tuple[str, str] | None:
    """Prompt and response of a conversation without its last turns, up to the assistant's message before; None where
    there is none."""
    if not is_chat(prompt):
        return None
    chat = opened(prompt)
    if not chat.answers or chat.answers[-1] == 0:
        return None
    last = chat.answers[-1]
    return Conversation(chat.messages[:last], chat.tools).text(), answer_text(chat.messages[last])


def _said(message: Message) -> str:
    calls = [_dumps(call["function"]) for call in message.get("tool_calls", ())]
    return "\n".join(filter(None, (message.get("reasoning_content"), message["content"], *calls)))


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=False, separators=(",", ":"))


def reserved(text: str) -> bool:
    """Whether a text of a source begins as only this module may begin one."""
    return text.startswith((MARK, _ANSWER))


def texts_of(messages: Sequence[Message]) -> str:
    """What messages say, without their roles: by which rows of the same content are found."""
    return "\n".join(_said(message) for message in messages)
