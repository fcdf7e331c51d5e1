"""`exec` and `eval` as a check has them: what comes from elsewhere runs in the process of an answer.

The check's own literals, text that stands in the reference, and what the check puts behind a response, run in the
check's process: tests are out of the answer's reach.
"""

from __future__ import annotations

import builtins
import json
import keyword
import marshal
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .plain_data import LONGEST, decode, dumps, encode, known

_NOISE = 16 << 20  # bytes without the mark, after which the answer's process counts as broken


class AnswerEnded(RuntimeError):
    """The process of the answer ended before it replied."""


class Remote:
    """A function, class or object of the answer. It can be called and read, over there; it is not data itself."""

    def __init__(self, answer: Answer, number: int) -> None:
        self.__dict__["_at"] = (answer, number)

    def _ask(self, verb: str, *rest: Any) -> Any:
        answer, number = self.__dict__["_at"]
        return answer.ask([verb, number, *map(answer.encoded, rest)])

    def __call__(self, *positional: Any, **named: Any) -> Any:
        value, changed = self._ask("call", list(positional), named)
        for mine, theirs in zip(positional, changed, strict=False):
            _put_back(mine, theirs)
        return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", name)[0]

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", key)[0]

    def __len__(self) -> int:
        return int(self._ask("length")[0])

    def __iter__(self) -> Iterator[Any]:
        return iter(self._ask("list")[0])

    def __str__(self) -> str:
        return str(self._ask("text")[0])

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "<object of the answer>"


class Answer:
    """The other end of the answer's process.

    Args:
        channel: a descriptor to it.
        mark: what its replies begin with; other lines are ignored.
    """

    def __init__(self, channel: int, mark: bytes) -> None:
        self._channel, self._mark = channel, mark
        self._rest = b""
        self._spaces: list[dict[str, Any]] = []
        self._given: set[str] = set()
        self.ended = False

    def ask(self, request: list[Any]) -> tuple[Any, Any]:
        """One request: what it gives, and what it changed.

        Raises:
            AnswerEnded: the process is gone. BaseException: what was raised there, as a built-in class of that name or
                one derived of the nearest.
        """
        view = memoryview(dumps(request))
        try:
            while view:
                view = view[os.write(self._channel, view) :]
            said = self._reply()
            kind, *rest, printed = said
            if printed:
                print(str(printed), end="")
            if kind == "raised":
                raised = _exception(list(map(str, rest[0])), str(rest[1]))
            elif kind == "done":
                return tuple(decode(each, self._object) for each in rest)  # type: ignore[return-value]
            else:
                raise ValueError(kind)
        except OSError:
            self.ended = True
            raise AnswerEnded("the process of the answer ended") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise AnswerEnded("the process of the answer replied with what is not data") from None
        raise raised

    def encoded(self, value: Any) -> Any:
        """A value for the other side.

        Raises:
            TypeError: it is not plain data, nor an object of the answer.
        """
        return encode(value, self._tag)

    def run(self, verb: str, source: Any, space: dict[str, Any], local: Any) -> Any:
        """Run a text or code object over there; names that it set are put into `space` (`local`, where given)."""
        if isinstance(source, types.CodeType):
            text: list[Any] = ["code", marshal.dumps(source).hex()]
        else:
            text = ["text", self.encoded(source)]
        if not any(each is space for each in self._spaces):
            self._spaces.append(space)
        number = next(place for place, each in enumerate(self._spaces) if each is space)
        sent = [text, number, self._names(space), None if local is None else self._names(local)]
        value, left = self.ask([verb, *sent])
        names = {name: each for name, each in left.items() if isinstance(name, str) and not name.startswith("__")}
        (space if local is None else local).update(names)
        self._given |= names.keys()
        return value

    @contextmanager
    def not_hiding(self, space: dict[str, Any]) -> Iterator[None]:
        """Within the block no name that an answer has set hides a built-in one: tests call the real `len`."""
        hidden = {name: space.pop(name) for name in self._given & vars(builtins).keys() & space.keys()}
        try:
            yield
        finally:
            space.update(hidden)

    def _names(self, space: Any) -> Any:
        """Of a namespace what can be sent. What the check did not pass itself (`__builtins__` of a module) stays."""
        found = {}
        for name, value in space.items():
            try:
                found[name] = self.encoded(value)
            except TypeError:
                if not str(name).startswith("__"):
                    raise TypeError(
                        f"{name!r} in the namespace is not plain data: code runs in another process"
                    ) from None
        return ["dict", [list(pair) for pair in found.items()]]

    def _tag(self, value: Any) -> list[Any] | None:
        if isinstance(value, Remote) and value.__dict__["_at"][0] is self:
            return ["object", value.__dict__["_at"][1]]
        return known(value)

    def _object(self, tag: str, inner: Any) -> Any:
        if tag != "object" or type(inner) is not int:
            raise ValueError(tag)
        return Remote(self, inner)

    def _reply(self) -> list[Any]:
        noise = 0
        while True:
            while b"\n" not in self._rest:
                part = os.read(self._channel, 1 << 16)
                if not part:
                    raise ConnectionError
                self._rest += part
                if len(self._rest) > LONGEST + len(self._mark):
                    raise ValueError("too long")
            line, self._rest = self._rest.split(b"\n", 1)
            if line.startswith(self._mark):
                said = json.loads(line[len(self._mark) :])
                if isinstance(said, list) and len(said) >= 2:
                    return said
                raise ValueError("no reply")
            noise += len(line) + 1
            if noise > _NOISE:
                raise ValueError("noise")


def builtins_of(answer: Answer, split: Callable[[Any], tuple[Any, str]]) -> dict[str, Any]:
    """The built-in names of a check's module.

    Args:
        answer: where text runs that is not the check's own.
        split: of a text, what comes from elsewhere, and what the check put behind it.
    """
    names = dict(vars(builtins))

    def runner(verb: str) -> Callable[..., Any]:
        plain = getattr(builtins, verb)

        def run(source: Any, globals: Any = None, locals: Any = None, /) -> Any:
            frame = sys._getframe(1)
            source = source.text if isinstance(source, _Compiled) else source
            theirs, mine = split(source)
            if theirs and verb == "eval":
                theirs, mine = source, ""  # an expression is one piece
            space, local = globals, locals
            if globals is None and theirs:
                space = {}  # nothing of the caller's names: the reference is among them
            elif globals is None:
                space, local = frame.f_globals, frame.f_locals if locals is None else locals
            value = answer.run(verb, theirs, space, local) if theirs else None
            if mine:
                space.setdefault("__builtins__", names)
                with answer.not_hiding(space if local is None else local):
                    value = plain(mine, space, local)
            if globals is None and theirs:
                frame.f_locals.update({name: each for name, each in space.items() if name != "__builtins__"})
            return value

        run.__name__ = run.__qualname__ = verb
        return run

    def compiled(source: Any, filename: Any, mode: str, *rest: Any, **named: Any) -> Any:
        code = compile(source, filename, mode, *rest, **named)
        return _Compiled(source, code) if isinstance(code, types.CodeType) and isinstance(source, str) else code

    names["exec"], names["eval"], names["compile"] = runner("exec"), runner("eval"), compiled
    return names


class _Compiled:
    """A text that compiles, for `exec` and `eval`: they still have to see where it comes from."""

    def __init__(self, text: str, code: types.CodeType) -> None:
        self.text, self._code = text, code

    def __getattr__(self, name: str) -> Any:
        return getattr(self._code, name)


def _exception(names: list[str], text: str) -> BaseException:
    """An exception of the other side as one of this: the nearest built-in class, under its own name."""
    for name in names:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            break
    else:
        kind = RuntimeError
    own = names[0] if names else ""
    if own != kind.__name__ and own.isidentifier() and not keyword.iskeyword(own):
        kind = type(own, (kind,), {"__str__": lambda self: text})
    try:
        return kind(text)
    except TypeError:  # UnicodeDecodeError and its like want more
        return RuntimeError(text)


def _put_back(mine: Any, theirs: Any) -> None:
    """A mutable argument as the call left it."""
    if isinstance(mine, list) and isinstance(theirs, list):
        mine[:] = theirs
    elif isinstance(mine, dict | set) and type(mine) is type(theirs):
        mine.clear()
        mine.update(theirs)
