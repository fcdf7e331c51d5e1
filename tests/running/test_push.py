"""A run is pushed in one commit, with what belongs to it; against a small local hub, and without one."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from report_fixtures import report


class _Hub(BaseHTTPRequestHandler):
    """The part of a hub's API that a commit needs; GGUF files go through large file storage, others inline."""

    files: dict[str, bytes]
    stored: dict[str, bytes]
    status: int

    def log_message(self, *args: Any) -> None: ...

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, document: Any, status: int = 200) -> None:
        raw = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_PUT(self) -> None:
        self.stored[self.path.rsplit("/", 1)[1]] = self._body()
        self._answer({})

    def do_POST(self) -> None:
        body, address = self._body(), f"http://{self.headers['Host']}"
        if self.status != 200:
            self._answer({"error": "no"}, self.status)
        elif self.path == "/api/repos/create":
            self._answer({"url": f"{address}/me/films", "id": "me/films", "name": "me/films"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".gguf") else "regular"} for f in files
            ]
            self._answer({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{address}/lfs/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif self.path.endswith("/commit/main"):
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    self.files[value["path"]] = self.stored[value["oid"]]
            self._answer({"success": True, "commitUrl": f"{address}/me/films/commit/abc", "commitOid": "abc"})
        else:
            self._answer({}, 404)


@pytest.fixture
def hub() -> Iterator[tuple[str, type[_Hub]]]:
    handler = type("Hub", (_Hub,), {"files": {}, "stored": {}, "status": 200})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler
    server.shutdown()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = tmp_path / "runs" / "films"
    for name, text in {
        "report.json": json.dumps(report()),
        "report.html": "<p>",
        "report.md": "x",
        "model_card.md": "card",
        "recipe.yaml": "name: films\ndata: {source: /home/me/rows.jsonl}\n",
        "exports/films-gguf-Q8_0/model.gguf": "weights" * 100,
        "exports/films-onnx-int8/model.onnx": "graph",
        "exports/films-onnx-int8/tokenizer.json": "{}",
    }.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def push(run: Path, endpoint: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distill2edge", "push", str(run), "me/films", *options]
    plain = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment = {**plain, "HF_ENDPOINT": endpoint, "HF_TOKEN": "secret-token", **environment}
    environment["HF_HUB_DISABLE_XET"] = "1"  # the plain protocol of large files, which the small hub knows
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_a_run_is_pushed_in_one_commit(run: Path, hub: tuple[str, type[_Hub]]) -> None:
    done = push(run, hub[0], "--private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub[0]}/me/films/commit/abc"
    exports = {"films-gguf-Q8_0/model.gguf", "films-onnx-int8/model.onnx", "films-onnx-int8/tokenizer.json"}
    assert set(hub[1].files) == {"README.md", "report.html", "recipe.yaml", *exports}
    assert hub[1].files["README.md"] == b"card"
    assert hub[1].files["recipe.yaml"] == b"name: films\ndata: {source: rows.jsonl}\n"
    assert hub[1].files["films-gguf-Q8_0/model.gguf"] == b"weights" * 100
    assert "secret-token" not in done.stdout + done.stderr


def test_one_export_can_be_chosen(run: Path, hub: tuple[str, type[_Hub]]) -> None:
    assert push(run, hub[0], "--scheme", "gguf:Q8_0").returncode == 0
    assert set(hub[1].files) == {"README.md", "report.html", "recipe.yaml", "films-gguf-Q8_0/model.gguf"}
    wrong = push(run, hub[0], "--scheme", "gguf:Q4_0")
    assert wrong.returncode == 2
    assert "no export gguf:Q4_0" in wrong.stderr


def test_a_failed_verdict_is_not_pushed_unasked(run: Path, hub: tuple[str, type[_Hub]]) -> None:
    (run / "report.json").write_text(json.dumps(report(passing=False)))
    done = push(run, hub[0])
    assert done.returncode == 2
    assert "--allow-failed" in done.stderr
    assert not hub[1].files
    assert push(run, hub[0], "--allow-failed").returncode == 0


def test_a_token_that_may_not_write(run: Path, hub: tuple[str, type[_Hub]]) -> None:
    hub[1].status = 403
    done = push(run, hub[0])
    assert done.returncode == 2
    assert "HF_TOKEN" in done.stderr


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {}])
def test_without_a_hub_the_error_says_so(run: Path, environment: dict[str, str]) -> None:
    done = push(run, "http://127.0.0.1:9", **environment)
    assert done.returncode == 4, done.stderr
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_link_among_the_exports_is_refused(run: Path, hub: tuple[str, type[_Hub]], tmp_path: Path) -> None:
    """It would upload what it points at."""
    (tmp_path / "private").write_text("key")
    (run / "exports" / "films-onnx-int8" / "notes").symlink_to(tmp_path / "private")
    done = push(run, hub[0])
    assert done.returncode == 2
    assert "notes" in done.stderr
    assert not hub[1].files
