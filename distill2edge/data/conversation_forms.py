"""Forms in which data sets keep conversations: one entry each; found by the first row, or named in the recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill2edge.data.conversation import Conversation, Message
from distill2edge.data.row_errors import names, shown
from distill2edge.data.values import NotANumber, Unreadable
from distill2edge.errors import UserError

Row = Mapping[str, Any]

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "ipython": "tool",
}  # fmt: skip
"""What data sets call a role -> what chat templates call it."""

_THOUGHT = ("reasoning_content", "reasoning", "thinking")
_SYSTEM = ("system", "system_prompt")
_PICTURES = ("image", "images", "video", "videos", "audio", "audios")
_NAMED = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")  # looked at before other columns


class Unusable(Exception):
    """A row that is not taken; its text is the reason, a key of `data.rows.REASONS`."""


class Malformed(ValueError):
    """A row that is not of the form that the others have; its text says why."""


@dataclass(frozen=True)
class Form:
    """One of them.

    Attributes:
        name: as `data.form` names it.
        label: what its rows have, for people.
        find: first row -> the columns that hold the conversation; empty where it has none.
        read: row, those columns -> messages.
        turns: whether a row is a list of turns.
    """

    name: str
    label: str
    find: Callable[[Row], tuple[str, ...]]
    read: Callable[[Row, Sequence[str]], list[Message]]
    turns: bool = False


@dataclass(frozen=True)
class Found:
    """A form, and the columns in which a source keeps it."""

    form: Form
    columns: tuple[str, ...]

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.form.name} ({self.form.label}) in {', '.join(self.columns)}"

    def chat(self, row: Row, number: int) -> tuple[Conversation, bool]:
        """The conversation of a row, up to the last message of the assistant, and whether something came after it.

        Raises:
            Unusable: no message of the assistant, two of the system, a part that is no text.
            UserError: it is not of the form; names the row.
        """
        try:
            messages = self.form.read(row, self.columns)
            if any(_given(row, name) for name in _PICTURES):
                raise Unusable("image")
            system = next((_content(_given(row, name)) for name in _SYSTEM if _given(row, name)), "")
            if system and messages and messages[0]["role"] != "system":
                messages.insert(0, {"role": "system", "content": system})
            whole = _whole(messages)
            return Conversation(tuple(whole), tuple(_tools(_given(row, "tools")))), whole[-1] is not messages[-1]
        except Malformed as error:
            what = f"row {number}: {shown(str(error))}; its fields are {names(row)}"
            fix = "correct the row, leave it out with data.filter, or name another data.form"
            raise UserError(what, where="data.form", fix=fix) from error


def found_in(row: Row, name: str) -> Found | None:
    """The form of a source by its first row.

    Args:
        name: of the form that is looked for, or `auto`.
    """
    for form in FORMS.values():
        if name in ("auto", form.name) and (columns := form.find(row)):
            return Found(form, columns)
    return None


# --- forms ------------------------------------------------------------------


def _column_of(*keys: str) -> Callable[[Row], tuple[str, ...]]:
    """Finds the column of lists whose items have these keys."""

    def find(row: Row) -> tuple[str, ...]:
        known = [name for name in _NAMED if name in row]
        for name in dict.fromkeys([*known, *row]):
            value = _listed(row.get(name))
            turns = [turn for turn in value if isinstance(turn, Mapping)] if isinstance(value, list) else []
            if turns and len(turns) == len(value) and all(key in turn for turn in turns for key in keys):
                return (name,)
        return ()

    return find


def _columns_of(*wanted: tuple[str, ...]) -> Callable[[Row], tuple[str, ...]]:
    """Finds a column under one of several names, of each."""

    def find(row: Row) -> tuple[str, ...]:
        found = [next((name for name in each if name in row), "") for each in wanted]
        return tuple(found) if all(found) else ()

    return find


def _read_messages(row: Row, columns: Sequence[str]) -> list[Message]:
    return [_message(turn, "role", "content") for turn in _turns(row, columns[0])]


def _read_sharegpt(row: Row, columns: Sequence[str]) -> list[Message]:
    return [_message(turn, "from", "value") for turn in _turns(row, columns[0])]


def _read_alpaca(row: Row, columns: Sequence[str]) -> list[Message]:
    asked, answered = columns
    more = next((value for name in ("input", "context") if (value := _given(row, name))), "")
    said = "\n\n".join(filter(None, (_content(_given(row, asked)), _content(more))))
    return _exchange(said, _content(_given(row, answered)))


def _read_completion(row: Row, columns: Sequence[str]) -> list[Message]:
    asked, answered = (_given(row, name) for name in columns)
    if isinstance(asked, list) and isinstance(answered, list):
        return [_message(turn, "role", "content") for name in columns for turn in _turns(row, name)]
    return _exchange(_content(asked), _content(answered))


def _exchange(asked: str, answered: str) -> list[Message]:
    if not asked.strip() or not answered.strip():
        raise Unusable("empty")
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]


FORMS = {
    form.name: form
    for form in (
        Form("prompt-completion", "prompt and completion", _columns_of(("prompt",), ("completion",)), _read_completion),
        Form("messages", "role and content", _column_of("role"), _read_messages, turns=True),
        Form("sharegpt", "from and value", _column_of("from", "value"), _read_sharegpt, turns=True),
        Form(
            "alpaca", "instruction, input, output", _columns_of(("instruction",), ("output", "response")), _read_alpaca
        ),
    )
}
"""In the order in which they are looked for."""


# --- parts ------------------------------------------------------------------


def _turns(row: Row, column: str) -> list[Any]:
    value = _listed(_given(row, column))
    if value is None or value == []:
        raise Unusable("empty")
    if not isinstance(value, list):
        raise Malformed(f"field {column} is no list of messages")
    return value


def _given(row: Row, name: str) -> Any:
    """A field's value; None where it is not there, as tables write it too."""
    value = row.get(name)
    return None if isinstance(value, NotANumber | Unreadable) else value


def _listed(value: Any) -> Any:
    """A list that a table keeps as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _message(turn: Any, role_key: str, content_key: str) -> Message:
    if not isinstance(turn, Mapping) or not isinstance(turn.get(role_key), str):
        raise Malformed(f"a message without {role_key!r}")
    called = str(turn[role_key])
    role = ROLES.get(called.strip().lower())
    if role is None:
        raise Malformed(f"a message of the role {called[:40]!r}, and the roles are {', '.join(ROLES)}")
    content = turn.get(content_key)
    if called == "function_call":
        return {"role": role, "content": "", "tool_calls": _calls(content)}
    message: Message = {"role": role, "content": _content(content)}
    if role == "assistant":
        if thought := next((turn[name] for name in _THOUGHT if turn.get(name)), None):
            message["reasoning_content"] = _content(thought)
        if calls := turn.get("tool_calls"):
            message["tool_calls"] = _calls(calls)
    if role == "tool":
        message |= {key: str(turn[key]) for key in ("name", "tool_call_id") if turn.get(key)}
    return message


def _content(value: Any) -> str:
    """What a message says; parts of text are joined.

    Raises:
        Unusable: a part that is no text.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        if any(part.get("type", "text") != "text" or not isinstance(part.get("text"), str) for part in value):
            raise Unusable("image")
        return "".join(part["text"] for part in value)
    if isinstance(value, int | float):
        return str(value)
    raise Malformed(f"a message whose content is a {type(value).__name__}, not a text")


def _calls(value: Any) -> list[Message]:
    value = _parsed(value, "tool calls")
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Malformed("a tool call without a name")
        arguments = function.get("arguments", function.get("parameters")) or {}
        if isinstance(arguments, str):
            arguments = _parsed(arguments, "arguments of a tool call")
        kept = {"id": str(call["id"])} if call.get("id") else {}
        function = {"name": function["name"], "arguments": _without_nulls(arguments)}
        calls.append({**kept, "type": "function", "function": function})
    if not calls:
        raise Malformed("a tool call without a name")
    return calls


def _tools(value: Any) -> list[Mapping[str, Any]]:
    if value is None or value == "":
        return []
    tools = _parsed(value, "tools")
    tools = tools if isinstance(tools, list) else [tools]
    made = []
    for tool in tools:
        tool = _parsed(tool, "tools")
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Malformed("a tool without a name")
        made.append({"type": "function", "function": _without_nulls(dict(function))})
    return made


def _parsed(value: Any, what: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} that are no JSON: {value[:80]!r}") from error


def _without_nulls(value: Any) -> Any:
    """Tables give each object the keys of all others, without a value: those are not there."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _whole(messages: list[Message]) -> list[Message]:
    """The messages up to the last one of the assistant that says or calls something.

    Raises:
        Unusable: there is none after another message, or there are two of the system.
    """
    if sum(message["role"] == "system" for message in messages) > 1:
        raise Unusable("systems")
    messages = [each for each in messages if each["role"] != "system" or each["content"].strip()]
    said = [
        index
        for index, each in enumerate(messages)
        if each["role"] == "assistant" and (each["content"].strip() or each.get("tool_calls"))
    ]
    if not said:
        raise Unusable("unanswered")
    whole = messages[: said[-1] + 1]
    if not any(each["role"] == "user" and each["content"].strip() for each in whole):
        raise Unusable("empty")
    return whole
