"""The bytes of a reply -> an answer, whatever dialect of the chat completions the server speaks; or why it is none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distill2edge.generation.thinking import UNCLOSED, split_thinking
from distill2edge.util.terminal import one_line

_WHOLE = {
    "stop",
    "eos",
    "eos_token",
    "end_turn",
    "end",
    "stop_sequence",
    "complete",
    "completed",
    "finished",
    "refusal",
}
_CUT = {"length", "max_tokens", "max_output_tokens", "model_length", "max_length"}
_FILTERED = {"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "content_filtered"}
_TOOLS = {"tool_calls", "tool_call", "tool_use", "function_call"}
_MOST_TOKENS = 1 << 31  # a server that counts more miscounts
_EVENT = (b"data:", b"event:", b"id:", b"retry:", b":")  # how a line of an event stream begins
_THINKS = ("thinking", "redacted_thinking", "reasoning", "redacted_reasoning", "thought", "summary")
_STATUSES = range(400, 600)


class Unreadable(Exception):
    """Not a chat completion at all."""


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        finish: `stop`; `length` where it was cut; `filtered`; else why it is not an answer (`tool call`, ...).
        prompt_tokens, tokens: as the endpoint counts them; None where it does not say, or miscounts.
        thinking: what a reasoning model thought before it answered.
        first: (token, log-probability) of the likeliest first tokens; empty where the endpoint gives none.
    """

    text: str
    finish: str
    prompt_tokens: int | None
    tokens: int | None
    thinking: str = ""
    first: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Failure:
    """An error that came in place of a completion, with status 200."""

    status: int
    said: str


def read_reply(content: bytes, limit: int | None = None) -> Reply | Failure:
    """Read the body of a response with status 200: JSON, or the events of a stream that nobody asked for.

    Args:
        limit: tokens that were asked for: an answer of that many whose end the server does not name was cut.

    Raises:
        Unreadable: neither a completion nor an error.
    """
    try:
        return _completion(_events(content) if content.lstrip().startswith(_EVENT) else _json(content), limit)
    except RecursionError as error:
        raise Unreadable("the reply is nested too deep") from error


def message_of(content: bytes) -> str:
    """What the endpoint says of an error, as it says it."""
    try:
        document = _json(content)
        return _said(document.get("error", document) if isinstance(document, dict) else document)
    except (Unreadable, RecursionError):
        return content.decode("utf-8", "replace")


def read_choice(content: bytes) -> tuple[dict[str, Any], Any] | Failure:
    """The first choice of a completion and its `usage`, as they came: of a response with status 200.

    Raises:
        Unreadable: neither a completion nor an error.
    """
    try:
        return _choice(_json(content))
    except RecursionError as error:
        raise Unreadable("the reply is nested too deep") from error


def counted(usage: Any) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of the answer, by `usage`; None where it does not say, or miscounts."""
    return _usage(usage if isinstance(usage, dict) else {})


def _choice(document: Any) -> tuple[dict[str, Any], Any] | Failure:
    if not isinstance(document, dict):
        raise Unreadable("the reply is not a JSON object")
    choices = document.get("choices")
    if document.get("error") and not choices:
        return _failure(document["error"])
    if not isinstance(choices, list) or not _first(choices):
        raise Unreadable("the reply has no choices")
    choice = _first(choices)
    return _failure(choice["error"]) if isinstance(choice.get("error"), dict) else (choice, document.get("usage"))


def _completion(document: Any, limit: int | None) -> Reply | Failure:
    found = _choice(document)
    if isinstance(found, Failure):
        return found
    choice, usage = found
    message = choice.get("message")
    if message is None and isinstance(choice.get("text"), str):
        message = {"content": choice["text"]}
    if not isinstance(message, dict):
        raise Unreadable("the reply has no message")
    prompt, tokens = counted(usage)
    read = _read(message, choice.get("finish_reason"), prompt, tokens, limit)
    # Of a reasoning model the first token is one of its thoughts.
    return read if read.thinking else replace(read, first=_first_tokens(choice.get("logprobs")))


def _first_tokens(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """The alternatives of the first token, in either form that there is: of chat completions, and of the older ones."""
    if not isinstance(logprobs, dict):
        return ()
    content, older = logprobs.get("content"), logprobs.get("top_logprobs")
    listed: list[tuple[Any, Any]] = []
    if isinstance(content, list) and content and isinstance(content[0], dict):
        top = content[0].get("top_logprobs") or [content[0]]
        listed = [(one.get("token"), one.get("logprob")) for one in top if isinstance(one, dict)]
    elif isinstance(older, list) and older and isinstance(older[0], dict):
        listed = list(older[0].items())
    return tuple(
        (_clean(token), float(value))
        for token, value in listed
        if isinstance(token, str) and isinstance(value, int | float) and -math.inf < value <= 0.01
    )


def _read(message: Mapping[str, Any], ended: Any, prompt: int | None, tokens: int | None, limit: int | None) -> Reply:
    parts = list(_parts(message.get("content")))
    text = "".join(said for kind, said in parts if kind == "text")
    apart = [said for kind, said in parts if kind == "thinking"]
    for name in ("reasoning_content", "reasoning", "thinking"):
        apart += [said for _, said in _parts(message.get(name))]
    if not text and isinstance(message.get("refusal"), str) and message["refusal"]:
        text = message["refusal"]
    text, within, unclosed = split_thinking(_clean(text))
    finish = _finish(ended, tokens, limit)
    if finish == "filtered":
        text = ""
    elif message.get("tool_calls") or message.get("function_call"):
        finish = "tool call"
    elif finish == "stop" and (strange := next((kind for kind, _ in parts if kind not in ("text", "thinking")), None)):
        finish = f"content that is no text: {one_line(strange, 40)}"
    elif finish == "stop" and unclosed:
        finish = UNCLOSED
    # Nothing was read, or nothing written: the server does not count.
    prompt, tokens = prompt or None, tokens or (None if text or parts or apart else tokens)
    # Providers send the same thinking under two names.
    thinking = "\n".join(dict.fromkeys(filter(None, (said.strip() for said in (*map(_clean, apart), within)))))
    return Reply(text, finish, prompt, tokens, thinking)


def _parts(content: Any) -> Iterator[tuple[str, str]]:
    """(kind, text) of a content: a string, a part, or a list. Kinds: `text`, `thinking`, or the server's own."""
    if content is None or content == "":
        return
    if isinstance(content, str):
        yield "text", content
    elif isinstance(content, list):
        for part in content:
            yield from _parts(part)
    elif isinstance(content, dict):
        kind = content.get("type", "text")
        thinks = str(kind).startswith(_THINKS)
        for name in ("text", "thinking", "reasoning", "content", "refusal", "summary"):
            if isinstance(content.get(name), (str, list)) and content[name]:
                inner = _parts(content[name])
                yield from (("thinking", said) for _, said in inner) if thinks or name == "thinking" else inner
                return
        if kind not in ("text", "output_text") and not thinks:
            yield str(kind), ""
    else:
        yield type(content).__name__, ""


def _finish(ended: Any, tokens: int | None, limit: int | None) -> str:
    if ended is None or ended == "":  # the server does not say; one that reached the limit was cut
        return "length" if limit is not None and tokens is not None and tokens >= limit else "stop"
    name = (
        str(ended).strip().lower().replace("-", "_").removeprefix("finish_reason_").removeprefix("finishreason.")
        if isinstance(ended, str)
        else ""
    )
    for names, finish in ((_WHOLE, "stop"), (_CUT, "length"), (_FILTERED, "filtered"), (_TOOLS, "tool call")):
        if name in names:
            return finish
    return f"unknown end: {one_line(str(ended), 40)}"


def _usage(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    prompt = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
    tokens = _count(usage.get("completion_tokens", usage.get("output_tokens")))
    total = _count(usage.get("total_tokens"))
    if total is not None and tokens is None and prompt is not None and total >= prompt:
        tokens = total - prompt
    return prompt, tokens


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS else None


def _failure(error: Any) -> Failure:
    code = error.get("code", error.get("status")) if isinstance(error, dict) else None
    code = int(code) if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3 else code
    return Failure(code if isinstance(code, int) and code in _STATUSES else 502, _said(error))


def _said(error: Any) -> str:
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # also not UTF-8, or a number of 5,000 digits
        raise Unreadable(f"the reply is not JSON ({type(error).__name__})") from error


def _events(content: bytes) -> dict[str, Any]:
    """The completion that the events of a stream add up to."""
    pieces: dict[str, list[Any]] = {}
    ended, usage, whole, seen = None, None, False, False
    for line in content.splitlines():
        if not (line := line.strip()).startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            whole = True
            break
        event = _json(data)
        if not isinstance(event, dict):
            raise Unreadable("an event of the stream is not a JSON object")
        if event.get("error"):
            return event
        usage = event.get("usage") or usage
        choices = event.get("choices")
        choice = _first(choices) if isinstance(choices, list) else {}
        delta = choice.get("delta")
        seen = seen or isinstance(delta, dict)
        for name, value in (delta if isinstance(delta, dict) else {}).items():
            if value is not None:
                pieces.setdefault(name, []).extend(value if isinstance(value, list) else [value])
        ended = choice.get("finish_reason") or ended
    if not seen or not (whole or ended):
        raise Unreadable("the stream has no end")
    message = {
        name: "".join(found) if all(isinstance(piece, str) for piece in found) else found
        for name, found in pieces.items()
    }
    return {"choices": [{"message": message, "finish_reason": ended}], "usage": usage}


def _first(choices: list[Any]) -> dict[str, Any]:
    """The choice of index 0, wherever it stands; empty where there is none."""
    return next((one for one in choices if isinstance(one, dict) and one.get("index") in (0, None)), {})


def _clean(text: str) -> str:
    """Halves of surrogate pairs have no UTF-8 form: neither journal, ledger nor tokenizer could hold them."""
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
