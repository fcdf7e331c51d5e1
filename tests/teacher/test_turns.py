"""Which turns of a conversation the teacher writes, and what then stands in the history of later ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distill2edge.data.conversation import Conversation, opened, opened_turns, plain_prompt
from distill2edge.data.examples import Row, row_id
from distill2edge.data.ledger import Origin
from distill2edge.generation.endpoint.client import conversation_of
from distill2edge.generation.generate import Answer, Ask
from distill2edge.recipe.schema import TextSignal
from distill2edge.teacher.text import read_responses, write_responses
from distill2edge.util.progress import SilentProgress

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Bern"}}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}


class Echo:
    """A teacher that says how many messages it read; cut where the last one asks for it."""

    name, shard_rows, reads = "echo", 64, ()
    facts: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.read: list[list[str]] = []

    def generate(self, asks: Sequence[Ask], sampling: Any, seed: int, done: Any = None) -> list[Answer]:
        answers = []
        for ask in asks:
            messages = opened_turns(ask.messages).messages
            self.read.append([message["content"] for message in messages])
            finish = "length" if "cut" in messages[-1]["content"] else "stop"
            answers.append(Answer(f"read {len(messages)}", finish, 10, 2, 0.5))
        return answers

    def close(self) -> None:
        pass


def rows() -> list[Row]:
    def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
        return {"role": role, "content": content, **more}

    asked, answered = [turn("user", text) for text in "abc"], [turn("assistant", f"gold {n}") for n in (1, 2)]
    chats = [
        (asked[0], answered[0], asked[1], answered[1], asked[2]),
        (turn("user", "w"), turn("assistant", "", tool_calls=[CALL]), turn("tool", "sun")),
        (turn("user", "cut"), turn("assistant", "gold"), turn("user", "d")),
        (turn("user", "single"),),
    ]
    made = []
    for number, messages in enumerate(chats):
        prompt = Conversation(messages, (TOOL,) if number == 1 else ()).text()
        made.append(Row(row_id(prompt, "gold"), prompt, "gold"))
    return made


def written(turns: str, work: Path) -> tuple[Echo, dict[str, Any], list[Row]]:
    work.mkdir()
    echo = Echo()
    signal = TextSignal.model_validate({"turns": turns})
    facts = write_responses(
        echo, rows(), signal, work, SilentProgress(), template="chat", system="be", seed=0, origin=Origin("t")
    )
    return echo, facts, read_responses(work)


def test_the_last_turn_alone_keeps_the_datas_earlier_answers(tmp_path: Path) -> None:
    echo, facts, found = written("last", tmp_path / "work")
    assert echo.read[0] == ["be", "a", "gold 1", "b", "gold 2", "c"]
    assert facts["written"] == 4
    assert plain_prompt(found[0].prompt).splitlines()[1] == "assistant: gold 1"
    assert found[0].response == "read 6"


def test_every_turn_has_the_teachers_own_answers_before_it(tmp_path: Path) -> None:
    echo, facts, found = written("all", tmp_path / "work")
    assert echo.read[-3] == ["be", "a", "read 2", "b", "read 4", "c"]
    assert [message["content"] for message in opened(found[0].prompt).messages] == ["a", "read 2", "b", "read 4", "c"]
    # What calls a tool stays as it is: the tool's result follows it.
    assert opened(found[1].prompt).messages[1]["tool_calls"] == [CALL]
    assert found[-1].prompt == "single"
    assert (facts["written"], facts["truncated"]) == (3, 1)  # an earlier turn that is cut ends its conversation
    lines = (tmp_path / "work" / "shard-00000.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert (first["prompt_tokens"], first["tokens"], first["cost_usd"]) == (30, 6, 1.5)  # of all three answers


def test_an_endpoint_gets_messages_tools_and_calls() -> None:
    body = conversation_of([("system", "be"), ("user", rows()[1].prompt)])
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "tool"]
    (call,) = body["messages"][2]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"town": "Bern"}
    assert call["id"]
    assert body["tools"] == [TOOL]
    assert conversation_of([("user", "hi")]) == {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("turns", ["first", "every"])
def test_other_turns_are_refused(turns: str) -> None:
    with pytest.raises(ValueError, match="turns"):
        TextSignal.model_validate({"turns": turns})
