"""The process that runs what a check passes to `exec` and `eval`. It holds no row and no code of the check.

It answers requests with data. Whatever that code does to its process, it can say no more than what its own functions
return: the check, in another process, compares.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import marshal
import os
import sys
from typing import Any

from .plain_data import LONGEST, decode, dumps, encode

_PRINTED = 1 << 20  # characters of output that are kept for a request
_ITEMS = 100_000  # of an iterator that are read
_MESSAGE = 500  # characters of an exception


class _Output:
    """What was printed since the last request, up to a limit: where sys.stdout leads."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._left = _PRINTED

    def write(self, text: str) -> int:
        """As a text stream."""
        self._parts.append(text[: self._left])
        self._left -= len(self._parts[-1])
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> str:
        """The text so far; forgotten then."""
        text, self._parts, self._left = "".join(self._parts), [], _PRINTED
        return text


class Server:
    """Objects of the answer by number, and what may be asked of them."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._spaces: dict[int, dict[str, Any]] = {}

    def reply(self, request: list[Any]) -> list[Any]:
        """`[value, what changed]`, as JSON: arguments of a call, names of a text that ran."""
        verb, *rest = request
        if verb in ("exec", "eval"):
            return self._run(verb, *rest)
        number, *rest = rest
        target = self._objects[number]
        if verb == "call":
            positional, named = self._in(rest[0]), self._in(rest[1])
            value = target(*positional, **named)
            return [self._out(value), ["list", [self._changed(each) for each in positional]]]
        if verb == "get":
            return [self._out(getattr(target, self._in(rest[0]))), None]
        if verb == "item":
            return [self._out(target[self._in(rest[0])]), None]
        if verb == "length":
            return [self._out(len(target)), None]
        if verb == "list":
            return [self._out([each for each, _ in zip(target, range(_ITEMS), strict=False)]), None]
        if verb == "text":
            return [self._out(str(target)), None]
        raise ValueError("no such request")

    def _run(self, verb: str, source: Any, space: int, names: Any, local: Any) -> list[Any]:
        kind, text = source
        code: Any = marshal.loads(bytes.fromhex(text)) if kind == "code" else self._in(text)
        namespace = self._spaces.setdefault(space, {"__name__": "answer"})
        namespace.update(self._in(names))
        if local is None:
            value = (exec if verb == "exec" else eval)(code, namespace)
            own = namespace
        else:
            own = self._in(local)
            value = (exec if verb == "exec" else eval)(code, namespace, own)
        left = {name: each for name, each in own.items() if isinstance(name, str) and not name.startswith("__")}
        return [self._out(value), self._out(left)]

    def _changed(self, value: Any) -> Any:
        return self._out(value) if isinstance(value, list | dict | set | bytearray) else None

    def _out(self, value: Any) -> Any:
        return encode(value, self._tag)

    def _tag(self, value: Any) -> list[Any]:
        for number, known in enumerate(self._objects):
            if known is value:
                return ["object", number]
        self._objects.append(value)
        return ["object", len(self._objects) - 1]

    def _in(self, value: Any) -> Any:
        return decode(value, self._untag)

    def _untag(self, tag: str, inner: Any) -> Any:
        if tag == "object":
            return self._objects[inner]
        if tag == "module":
            return importlib.import_module(inner)
        return getattr(__import__("builtins"), inner)


def serve(channel: int, mark: bytes) -> None:
    """Answer requests until the other end closes. A reply is a line that begins with `mark`."""
    server, output = Server(), _Output()
    sys.stdout = sys.stderr = output  # type: ignore[assignment]
    with os.fdopen(os.dup(channel), "rb") as requests:
        for line in iter(lambda: requests.readline(LONGEST + 1), b""):
            try:
                said = ["done", *server.reply(json.loads(line))]
                reply = dumps([*said, output.take()])
            except BaseException as error:  # whatever the code raises is its caller's to judge
                reply = dumps(["raised", _names(error), _text(error), output.take()])
            view = memoryview(mark + reply)
            while view:
                view = view[os.write(channel, view) :]


def _names(error: BaseException) -> list[str]:
    return [kind.__name__[:80] for kind in type(error).__mro__ if issubclass(kind, BaseException)]


def _text(error: BaseException) -> str:
    with contextlib.suppress(BaseException):  # its __str__ is the answer's code too
        return str.__str__(str(error))[:_MESSAGE]
    return ""
