"""An S3 server of this machine, with faults to order: moto behind a door that loses, refuses and holds up requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.request import Request, urlopen

import pytest

BUCKET = "models"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip


@dataclass
class Door:
    """What happens to requests before moto sees them.

    Attributes:
        lost: words in the path of a PUT that is answered and not done.
        deaf: whether conditions of a PUT are not heard.
        refused: the code that every request gets; empty for none.
        once: what happens to the next PUT: `conflict` with another, its answer is `lost`, or it is refused `plain`ly,
            as servers do that do not say which condition was not met.
    """

    app: Callable[..., Any]
    lost: str = ""
    deaf: bool = False
    refused: str = ""
    once: str = ""
    asked: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        from werkzeug.wrappers import Response

        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        self.asked.append(f"{method} {path}")
        if self.refused:
            text = f"<Error><Code>{self.refused}</Code><Message>not for you</Message></Error>"
            return Response(text, status=403, mimetype="application/xml")(environ, start)
        if method == "PUT" and self.lost and self.lost in path:
            return Response("", headers={"ETag": '"0"'})(environ, start)
        if self.deaf:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        once, self.once = (self.once, "") if method == "PUT" else ("", self.once)
        if once in ("conflict", "plain"):
            code = {"conflict": "ConditionalRequestConflict", "plain": "PreconditionFailed"}[once]
            text = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
            return Response(text, status=409 if once == "conflict" else 412, mimetype="application/xml")(environ, start)
        if once == "lost":
            with self.lock:
                list(self.app(environ, lambda *parts: lambda data: None))
            return Response("", status=500)(environ, start)
        with self.lock:  # moto looks and writes in two steps, which a real server does in one
            return list(self.app(environ, start))


@dataclass(frozen=True)
class Server:
    """A running server."""

    door: Door
    endpoint: str

    def client(self) -> Any:
        """Of boto3, past our own code."""
        import boto3

        return boto3.client("s3", endpoint_url=self.endpoint)

    def names(self, prefix: str = "") -> list[str]:
        """Of the objects that are there."""
        found = self.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", [])]


@contextmanager
def served() -> Iterator[Server]:
    """A server with an empty bucket, in a thread."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    door = Door(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Server(door, f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def one_server() -> Iterator[Server]:
    """One for the tests of a module."""
    with served() as server:
        yield server


@pytest.fixture
def s3(one_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The module's server, empty and without faults; the environment names it."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": one_server.endpoint}.items():
        monkeypatch.setenv(name, value)
    door = one_server.door
    door.lost, door.deaf, door.refused, door.once = "", False, "", ""
    urlopen(Request(f"{one_server.endpoint}/moto-api/reset", method="POST"))
    one_server.client().create_bucket(Bucket=BUCKET)
    door.asked.clear()
    return one_server
