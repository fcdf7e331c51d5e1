"""An endpoint whose answer depends on the question alone, and that notes every answer it gave: `endpoint.py LOG`."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

_WORDS = (
    "name",
    "explain",
    "list",
    "compare",
    "river",
    "mountain",
    "colour",
    "city",
    "engine",
    "poem",
    "number",
    "bread",
)
_LOCK = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        digest = hashlib.sha256(body).hexdigest()
        random = Random(digest)
        text = " ".join(random.choice(_WORDS) for _ in range(9)) + "."
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 9}
        raw = json.dumps({"choices": [choice], "usage": usage}).encode()
        with _LOCK, open(sys.argv[1], "a", encoding="utf-8") as log:
            log.write(digest + "\n")
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *parts: object) -> None: ...


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
