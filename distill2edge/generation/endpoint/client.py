"""One request to an OpenAI-compatible endpoint: an answer, a fault worth another try, or an error with its fix."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from distill2edge.data.conversation import Message, opened_turns
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.generation.endpoint.rate_limits import retry_after
from distill2edge.generation.endpoint.reply import Failure, Unreadable, message_of
from distill2edge.util.terminal import one_line, printable

WHERE = "teacher.endpoint"
CHAT, COMPLETIONS = "chat/completions", "completions"
"""Where requests go: conversations, and texts that are gone on from."""
_LARGEST = 16 << 20  # bytes of a response
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_ROW = frozenset({400, 413, 422})
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_WHAT = {CHAT: "a chat completion", COMPLETIONS: "a completion"}
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")

T = TypeVar("T")


class Again(Exception):
    """A fault that another try may not meet.

    Args:
        kind: what is counted: `429`, `500`, `timeout`, `garbage`, `cut off`, `unreachable`.
        what: for people.
        wait_s: what the server asks us to wait.
        charged: whether the request may have been charged although no answer came.
    """

    def __init__(self, kind: str, what: str, wait_s: float | None = None, *, charged: bool = False) -> None:
        super().__init__(what)
        self.kind, self.what, self.wait_s, self.charged = kind, what, wait_s, charged


class Refused(Exception):
    """The endpoint does not take this request; others may pass."""


class Unknown(UserError):
    """The endpoint knows no such address, or no such model."""


class Client:
    """Sends requests to one address.

    Args:
        url: base (`https://host/v1`) or the whole address of `chat/completions`.
        path: `CHAT` or `COMPLETIONS`.
        key: sent as a bearer token; never part of an error or of a file.
        connections: requests at once.

    Raises:
        UserError: a URL that is not one, that holds a secret, or that would send the key unencrypted.
    """

    def __init__(self, url: str, key: str | None, *, path: str, timeout_s: float, connections: int) -> None:
        import httpx2

        self.url, self._what = address(url, path), _WHAT[path]
        self._key = key
        if key and urlsplit(self.url).scheme == "http" and urlsplit(self.url).hostname not in _LOCAL:
            raise UserError("the key would be sent unencrypted", where="teacher.model", fix="use an https:// address")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout_s = timeout_s
        self._http = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 15.0)),
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
            follow_redirects=False,
        )

    def send(self, body: Mapping[str, Any], read: Callable[[bytes], T | Failure]) -> T:
        """Send one request, once.

        Args:
            read: reads the body of a response with status 200.

        Raises:
            Again: worth another try.
            Refused: the endpoint does not take this request (400, 413, 422).
            UserError: the key, the address or the model is wrong, or there is no credit.
        """
        status, headers, content = self._post(json.dumps(body).encode())
        said = self._clean(message_of(content))
        if status == 200:
            try:
                found = read(content)
            except Unreadable as error:
                shown = self._clean(content.decode("utf-8", "replace"))
                raise Again("garbage", f"not {self._what}: {error}: {shown}", charged=True) from error
            if not isinstance(found, Failure):
                return found
            status, said = found.status, self._clean(found.said)
        if status == 429 and any(code in content.decode("utf-8", "replace") for code in _NO_MONEY):
            raise EnvironmentFault(f"the endpoint says that no credit is left: {said}", where=WHERE,
                                   fix="top it up, and run the same command: every answer so far is kept")  # fmt: skip
        if status in _AGAIN or status >= 500:
            raise Again(str(status), f"status {status}: {said}", retry_after(headers.get("retry-after")))
        if status in (401, 403):
            raise UserError(f"the endpoint refuses the key (status {status}): {said}", where=f"{WHERE}.key_env",
                            fix="put a valid key into the environment variable that it names")  # fmt: skip
        if status in _ROW:
            raise Refused(said)
        if status == 404:
            raise Unknown(f"the endpoint knows neither address nor model (status 404): {said}", where="teacher.model",
                          fix=f"{self.url} was asked; check it, and teacher.endpoint.model")  # fmt: skip
        if location := headers.get("location"):
            said = f"it points to {self._clean(location)}, and no key is sent to another address"
        raise UserError(f"the endpoint answers with status {status}: {said}", where="teacher.model",
                        fix=f"{self.url} was asked; give the base address, which usually ends in /v1")  # fmt: skip

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _post(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        import httpx2

        end = time.monotonic() + self._timeout_s
        try:
            with self._http.stream(
                "POST", self.url, content=body, headers={"Content-Type": "application/json"}
            ) as response:
                content = bytearray()
                for piece in response.iter_bytes():
                    content += piece
                    if len(content) > _LARGEST:
                        raise Again("garbage", "the response has no end", charged=True)
                    if time.monotonic() > end:
                        raise Again("timeout", f"no whole answer within {self._timeout_s:g} s", charged=True)
                return response.status_code, dict(response.headers), bytes(content)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise Again("unreachable", f"{self.url} cannot be reached: {error}") from error
        except httpx2.TimeoutException as error:
            raise Again("timeout", f"no answer within {self._timeout_s:g} s", charged=True) from error
        except httpx2.TransportError as error:
            raise Again("cut off", f"the connection broke: {error}", charged=True) from error
        except httpx2.DecodingError as error:
            raise Again("garbage", f"the response cannot be decoded: {error}", charged=True) from error

    def _clean(self, text: str) -> str:
        """A line of it, without the key."""
        if self._key:
            text = text.replace(self._key, "[key]")
        line = one_line(text, 200)
        return f"'{line}'" if line else "(nothing)"


def address(url: str, path: str = CHAT) -> str:
    """The address of `chat/completions`, or of another path in its place.

    Raises:
        UserError: not an http(s) address, or one that holds a password or a query.
    """
    import httpx2

    where, fix = "teacher.model", "endpoint:https://host/v1"
    try:
        parts = urlsplit(url)
        httpx2.URL(url)
        host = (parts.hostname or "").encode("idna")  # as the resolver will
        good = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except (ValueError, httpx2.InvalidURL):  # a port that is not one, half an IPv6 address, a host that no name can be
        good = False
    if not good or url != printable(url) or any(char.isspace() for char in url):
        raise UserError(f"'{one_line(url, 200)}' is not an http or https address", where=where, fix=fix)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "an endpoint's address must hold no password and no query: it is written into files",
            where=where,
            fix=f"{fix}, and the key in the environment variable that teacher.endpoint.key_env names",
        )
    return f"{url.rstrip('/').removesuffix(f'/{CHAT}')}/{path}"


def conversation_of(turns: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Turns as the endpoint's `messages`, and its `tools` where there are some."""
    chat = opened_turns(turns)
    tools = {"tools": [dict(tool) for tool in chat.tools]} if chat.tools else {}
    return {"messages": [_message(message) for message in chat.messages], **tools}


def _message(message: Message) -> dict[str, Any]:
    """A message as an endpoint takes it: arguments of calls as JSON, nothing of what was thought."""
    sent = {key: value for key, value in message.items() if key != "reasoning_content"}
    if calls := message.get("tool_calls"):
        sent["tool_calls"] = [
            {"id": f"call_{number}", **call, "function": {**call["function"], "arguments": _json(call["function"])}}
            for number, call in enumerate(calls)
        ]
    return sent


def _json(function: Mapping[str, Any]) -> str:
    return json.dumps(function["arguments"], ensure_ascii=False)
