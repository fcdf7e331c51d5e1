"""An endpoint on this machine whose replies a test decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler", dict[str, Any], int], None]


class Handler(BaseHTTPRequestHandler):
    """Asks the server's behaviour what to do with the n-th request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server: Any = self.server
        with server.lock:
            server.seen.append((dict(self.headers), body))
            number = len(server.seen)
        server.behaviour(self, body, number)

    def reply(self, status: int, content: Any, **headers: str) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(raw)

    def answer(self, text: str, prompt: int = 10, tokens: int = 5, finish: str = "stop") -> None:
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
        self.reply(200, {"choices": [choice], "usage": usage})

    def log_message(self, *parts: Any) -> None: ...


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[Any]:
    """A server with `url`, what it has `seen` ((headers, body) of each request) and its `behaviour`."""
    found: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.seen, found.behaviour, found.lock = [], behaviour, threading.Lock()
    found.url = f"http://127.0.0.1:{found.server_port}/v1"
    threading.Thread(target=found.serve_forever, daemon=True).start()
    try:
        yield found
    finally:
        found.shutdown()
        found.server_close()
