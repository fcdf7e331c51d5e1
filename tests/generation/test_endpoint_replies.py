"""What servers really send: read, or a dropped row with its reason; thinking kept apart; nothing paid is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_endpoint import Handler, _fast, ask, echo, server  # noqa: F401  (fixtures)

from distill2edge.data import ledger
from distill2edge.errors import EnvironmentFault
from distill2edge.generation.endpoint.journal import BALLAST, Journal
from distill2edge.generation.endpoint.reply import Failure, Reply, Unreadable, message_of, read_reply
from distill2edge.generation.thinking import split_thinking


def body(message: Any, finish: Any = "stop", **more: Any) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], **more}).encode()


def text(content: Any, finish: Any = "stop", **fields: Any) -> bytes:
    return body({"role": "assistant", "content": content, **fields}, finish)


PARTS = [{"type": "text", "text": "Yes, "}, {"type": "text", "text": "in parts."}]
CASES: list[tuple[str, bytes, tuple[str, str, str]]] = [
    ("plain", text("Yes."), ("Yes.", "stop", "")),
    ("capitals", text("Yes.", "STOP"), ("Yes.", "stop", "")),
    ("of another service", text("Yes.", "FINISH_REASON_MAX_TOKENS"), ("Yes.", "length", "")),
    ("end_turn", text("Yes.", " end-turn "), ("Yes.", "stop", "")),
    ("no end", text("Yes.", None), ("Yes.", "stop", "")),
    ("an end of no kind", text("Yes.", {"a": 1}), ("Yes.", "unknown end: {'a': 1}", "")),
    ("a strange end", text("Yes.", "aborted\x1b[2J"), ("Yes.", "unknown end: aborted\\u001b[2J", "")),
    ("null, cut", text(None, "length", reasoning_content="hm"), ("", "length", "hm")),
    ("null, whole", text(None), ("", "stop", "")),
    ("no content", body({"role": "assistant"}), ("", "stop", "")),
    ("tool", text(None, "tool_calls", tool_calls=[{"id": "1"}]), ("", "tool call", "")),
    ("text and tool", text("Let me look.", "stop", tool_calls=[{"id": "1"}]), ("Let me look.", "tool call", "")),
    ("old tool", text(None, "function_call", function_call={"name": "f"}), ("", "tool call", "")),
    ("parts", text(PARTS), ("Yes, in parts.", "stop", "")),
    ("one part", text(PARTS[0]), ("Yes, ", "stop", "")),
    ("strings as parts", text(["Yes, ", "twice."]), ("Yes, twice.", "stop", "")),
    ("an image", text([{"type": "image_url", "image_url": {"url": "x"}}]),
     ("", "content that is no text: image_url", "")),
    ("a number", text(5), ("", "content that is no text: int", "")),
    ("thinking part", text([{"type": "thinking", "thinking": "hm"}, PARTS[0]]), ("Yes, ", "stop", "hm")),
    ("thinking in parts", text([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, PARTS[0]]),
     ("Yes, ", "stop", "hm")),
    ("think", text("<think>\nhm\n</think>\n\nYes."), ("Yes.", "stop", "hm")),
    ("think, begun in the prompt", text("hm\n</think>\n\nYes."), ("Yes.", "stop", "hm")),
    ("think, no end", text("<think>hm, let me"), ("", "thinking without an end", "hm, let me")),
    ("think, cut", text("<think>hm, let me", "length"), ("", "length", "hm, let me")),
    ("think and its own field", text("<think>hm</think>Yes.", reasoning="hm", reasoning_content="hm"),
     ("Yes.", "stop", "hm")),
    ("filtered", text("Yes", "content_filter"), ("", "filtered", "")),
    ("refusal", text(None, "stop", refusal="I will not."), ("I will not.", "stop", "")),
    ("refusal, cut", text(None, "length", refusal="I will"), ("I will", "length", "")),
    ("refusal, filtered", text(None, "content_filter", refusal="I will not."), ("", "filtered", "")),
    ("parts of a dialect's own kinds", text([{"type": "reasoning.text", "text": "hm"},
     {"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "Yes."}]), ("Yes.", "stop", "hm")),
    ("marks with blanks and attributes", text('<think budget="9">hm</think >Yes.'), ("Yes.", "stop", "hm")),
    ("Seed's marks", text("<seed:think>hm</seed:think>Yes."), ("Yes.", "stop", "hm")),
    ("channels", text("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes."),
     ("Yes.", "stop", "hm")),
    ("more than one choice", b'{"choices":[{"index":1,"message":{"content":"B"},"finish_reason":"length"},'
     b'{"index":0,"message":{"content":"A"},"finish_reason":"stop"}]}', ("A", "stop", "")),
    ("a stream of more than one choice", b': ping\r\n\r\nevent: x\r\ndata: {"choices":[{"index":1,"delta":'
     b'{"content":"B"}}]}\r\n\r\ndata: {"choices":[{"index":0,"delta":{"content":"A"},"finish_reason":"stop"}]}',
     ("A", "stop", "")),
    ("a stream that thinks in pieces", b'data: {"choices":[{"delta":{"reasoning":"h m"}}]}\n\n'
     b'data: {"choices":[{"delta":{"reasoning":" m"}}]}\n\ndata: {"choices":[{"delta":{"reasoning":" m"}}]}\n\n'
     b'data: {"choices":[{"delta":{"refusal":"N"}}]}\n\n'
     b'data: {"choices":[{"delta":{"refusal":"o"},"finish_reason":"stop"}]}\n\n', ("No", "stop", "h m m m")),
    ("half a pair", b'{"choices":[{"message":{"content":"a\\ud800b"},"finish_reason":"stop"}]}', ("a?b", "stop", "")),
    ("old completion", b'{"choices":[{"text":"Yes.","finish_reason":"stop"}]}', ("Yes.", "stop", "")),
    ("a stream", b'data: {"choices":[{"delta":{"content":"h"}}]}\n\ndata: {"choices":[{"delta":{"content":"i"}}]}\n\n'
     b"data: [DONE]\n\n", ("hi", "stop", "")),
    ("a stream that thinks", b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\n\n'
     b'data: {"choices":[{"delta":{"content":"Yes"},"finish_reason":"length"}]}\n\n', ("Yes", "length", "hm")),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_each_dialect_is_read(content: bytes, expected: tuple[str, str, str]) -> None:
    reply = read_reply(content)
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finish, reply.thinking) == expected


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>busy</html>", b"[" * 200_000, b'{"a":' * 100_000, b'{"choices": []}', b'{"choices": {}}', b"5",
     b'{"choices": [null]}', b'{"choices": [{"message": "x"}]}', b'{"choices": [{"message": {"content": "\xff"}}]}',
     b'{"n": ' + b"9" * 5000 + b"}", b"data: {}\n\n", b"data: [DONE]", b"null",
     b'data: {"choices":[{"delta":{"content":"h"}}]}\n\n'],
)  # fmt: skip
def test_what_is_no_completion_is_unreadable(content: bytes) -> None:
    with pytest.raises(Unreadable):
        read_reply(content)
    assert isinstance(message_of(content), str)


def test_an_error_with_status_200_is_an_error() -> None:
    assert read_reply(b'{"error": {"message": "overloaded", "code": 503}}') == Failure(503, "overloaded")
    assert read_reply(b'{"error": {"message": "slow down", "code": "429"}}') == Failure(429, "slow down")
    assert read_reply(b'{"error": "no such thing", "choices": null}') == Failure(502, "no such thing")
    assert read_reply(b'{"choices": [{"error": {"code": 502, "message": "gone"}}]}') == Failure(502, "gone")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5}, (10, 5)),
        ({"prompt_tokens": 10.0, "completion_tokens": 5.5}, (10, None)),
        ({"prompt_tokens": 10**22, "completion_tokens": -1}, (None, None)),
        ({"prompt_tokens": True, "completion_tokens": "5"}, (None, None)),
        ({"prompt_tokens": 10, "total_tokens": 15}, (10, 5)),
        ({"input_tokens": 10, "output_tokens": 5}, (10, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (None, None)),
        ([1], (None, None)),
        ("many", (None, None)),
    ],
)
def test_usage_is_bounded_integers_or_nothing(usage: Any, expected: tuple[int | None, int | None]) -> None:
    reply = read_reply(body({"content": "x"}, usage=usage))
    assert isinstance(reply, Reply)
    assert (reply.prompt_tokens, reply.tokens) == expected


def test_an_answer_of_all_tokens_without_a_named_end_was_cut() -> None:
    content = body({"content": "x"}, None, usage={"prompt_tokens": 1, "completion_tokens": 8})
    assert read_reply(content, 8).finish == "length"  # type: ignore[union-attr]
    assert read_reply(content, 9).finish == "stop"  # type: ignore[union-attr]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["<think>", "</think>", "stop", "length", "text", "thinking"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["type", "text", "thinking", "content", "refusal", "message", "code"]), inner),
    max_leaves=12,
)  # fmt: skip


@given(message=JSON, finish=JSON, usage=JSON, error=JSON)
@settings(max_examples=300)
def test_no_reply_breaks_the_reader(message: Any, finish: Any, usage: Any, error: Any) -> None:
    for document in (
        {"choices": [{"message": {"content": message, "reasoning": error}, "finish_reason": finish}], "usage": usage},
        {"choices": [{"message": message, "error": error}]},
        {"choices": usage, "error": error},
        message,
    ):
        try:
            found = read_reply(json.dumps(document).encode(), 8)
        except Unreadable:
            continue
        if isinstance(found, Reply):
            (found.text + found.thinking).encode()
            assert "</think>" not in found.text
            assert found.finish == found.finish.strip()


def test_thinking_is_split_wherever_it_stands() -> None:
    assert split_thinking("no tags") == ("no tags", "", False)
    assert split_thinking("<think>a</think>b<think>c</think>d") == ("bd", "a\nc", False)
    assert split_thinking("<THINKING>a</THINKING> b") == ("b", "a", False)
    assert split_thinking("[THINK]a[/THINK]b") == ("b", "a", False)
    assert split_thinking("a</think>b</think>c") == ("c", "a\nb", False)
    assert split_thinking("<think></think>\n\nb")[0::2] == ("b", False)
    assert split_thinking("b <think>a") == ("b", "a", True)


def test_a_row_that_cannot_be_read_is_dropped_once_and_the_rest_go_on(server: Any, tmp_path: Path) -> None:  # noqa: F811
    def behaviour(handler: Handler, sent: dict[str, Any], number: int) -> None:
        if sent["messages"][-1]["content"] == "question 3":
            handler.reply(200, b"[" * 200_000)
        else:
            echo(handler, sent, number)

    server.behaviour = behaviour
    answers, facts = ask(server, tmp_path, concurrency=1, retries=1)
    assert answers[3].finish.startswith("unreadable: not a chat completion")
    assert sum(answer.finish == "stop" for answer in answers) == 5
    assert facts["charged_without_answer"] == 2
    asked = len(server.seen)
    again, _ = ask(server, tmp_path, concurrency=1, retries=1)
    assert (again, len(server.seen)) == (answers, asked)  # its tries are not paid twice either


def test_a_server_of_which_nothing_can_be_read_stops_the_run(server: Any, tmp_path: Path) -> None:  # noqa: F811
    ask(server, tmp_path, 3)
    server.behaviour = lambda handler, sent, number: handler.reply(200, b"<html>log in</html>")
    with pytest.raises(EnvironmentFault, match="log in"):
        ask(server, tmp_path, 40, concurrency=1, retries=0)
    assert len(server.seen) <= 3 + 5


def test_thinking_goes_through_the_journal_beside_the_text(server: Any, tmp_path: Path) -> None:  # noqa: F811
    server.behaviour = lambda handler, sent, number: handler.answer("<think>hm</think>Yes.")
    for _ in range(2):  # asked, and from the journal
        answers, _ = ask(server, tmp_path, 3)
        assert [(answer.text, answer.thinking) for answer in answers] == [("Yes.", "hm")] * 3
    assert len(server.seen) == 3


def test_a_redirect_is_not_followed_and_said(server: Any, tmp_path: Path) -> None:  # noqa: F811
    from distill2edge.errors import UserError

    server.behaviour = lambda handler, sent, number: handler.reply(307, b"", Location="https://elsewhere.example/v1")
    with pytest.raises(UserError, match=r"elsewhere\.example.*no key is sent"):
        ask(server, tmp_path, 2, concurrency=1)
    assert len(server.seen) == 1


def test_a_ledger_without_thinking_is_read(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    row = ledger.LedgerRow.make("p", "r", ledger.Origin("t"), id="1", method="text", settings={}, thinking="hm")
    path = ledger.write(tmp_path, [row])
    assert ledger.read(path) == [row]
    pq.write_table(pq.read_table(path).drop_columns(["thinking"]), path)
    assert ledger.read(path)[0].thinking == ""


FULL = """\
import os, sys
from pathlib import Path
from distill2edge.errors import EnvironmentFault
from distill2edge.generation.endpoint import journal as module

work = Path(sys.argv[1])
journal = module.Journal(work)
write, left = os.write, [300]

def limited(handle, data):
    if (work / module.BALLAST).exists():  # a full disk, until its room is given up
        take = min(len(data), left[0])
        if not take:
            raise OSError(28, os.strerror(28))
        left[0] -= take
        data = data[:take]
    return write(handle, data)

os.write = limited
for number in range(9):
    try:
        journal.append({"key": str(number), "text": "x" * 100})
    except EnvironmentFault as fault:
        print(number, fault.exit_code, flush=True)
        break
os._exit(0)
"""


def test_an_answer_that_comes_when_the_disk_is_full_is_kept(tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert found.stdout == "2 4\n"
    journal = Journal(tmp_path)
    assert sorted(journal.answers) == ["0", "1", "2"]
    journal.close()
    assert not (tmp_path / BALLAST).exists()
