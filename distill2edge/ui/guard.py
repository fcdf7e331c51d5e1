"""Who may ask: this machine's own browser, from the page's own address, and nobody through another name.

A page of another site may send requests to a loopback address, or point its own name at it (DNS rebinding). So a Host
that is not loopback is refused, and what changes anything is taken from the page's own origin alone.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 256 << 10
"""Of the body of a request."""
_HOST = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_FORM = "application/x-www-form-urlencoded"
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: it asks its own address alone, and holds no script or style within itself."""
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # `no-referrer` would also take a form's Origin
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """The application behind its checks; every answer has headers that keep a browser from more than it needs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refused = refusal(scope["method"], scope["headers"])

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message.get("headers", ())}
                more = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *(one for one in more if one[0] not in there)]
            await send(message)

        await (refused or self._app)(scope, receive, with_headers)


def refusal(method: str, headers: list[tuple[bytes, bytes]]) -> Response | None:
    """Why a request is not answered; None where it is.

    Args:
        headers: names in small letters, as ASGI gives them.
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    hosts = found.get("host", [])
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        return _refuse(403, "This page is for this machine alone: open it at http://127.0.0.1 with its port.")
    if method in ("GET", "HEAD"):
        return None
    if method != "POST":
        return _refuse(405, "Only GET and POST.")
    if found.get("origin", []) != [f"http://{hosts[0]}"]:
        return _refuse(403, "Only the page itself may ask this.")
    if found.get("content-type", [""])[0].partition(";")[0].strip().lower() != _FORM:
        return _refuse(415, f"Only {_FORM}.")
    length: Any = found.get("content-length", [""])[0]
    if not length.isascii() or not length.isdigit() or len(length) > 12 or int(length) > MOST_BYTES:
        return _refuse(413, f"A form of at most {MOST_BYTES:,} bytes, with its length.")
    return None


def _refuse(code: int, why: str) -> Response:
    return PlainTextResponse(f"{why}\n", code)
