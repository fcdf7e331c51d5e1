"""recipes/buzzfeed/flan-t5-api.yaml with a small server, small rows and a small T5 in place of the real ones."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny import tiny_t5

from distill2edge.cli.main import main

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "buzzfeed" / "flan-t5-api.yaml"


class Handler(BaseHTTPRequestHandler):
    """Answers with a sentence that the recipe's check accepts; to one row in eight with one that it refuses."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["messages"][-1]["content"].split()
        text = "no" if int(asked[-1]) % 8 == 0 else f"The story of number {asked[-1]} is told here."
        usage = {"prompt_tokens": len(asked), "completion_tokens": 12}
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        raw = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *parts: Any) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_recipe_runs_from_the_endpoint_to_the_report(address: str, tmp_path: Path) -> None:
    rows = [{"article": f"the fox saw number {n}", "highlights": f"Fox sees {n}."} for n in range(100, 140)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_t5(tmp_path / "t5", layers=1)
    changes = {
        "teacher.model": f"endpoint:{address}",
        "data.source": tmp_path / "rows.jsonl",
        "data.config": "null",
        "data.splits": "{train: 24, validation: 4, calibration: 4, test: 6}",
        "student.init": f"{{model: {tmp_path / 't5'}}}",
        "distill.epochs": 1,
        "verify.max_kl": 1.0,
        "bench.rounds": 1,
        "bench.requests": 1,
    }
    sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    places = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    result = CliRunner(env={"TEACHER_KEY": "secret"}).invoke(main, ["run", str(RECIPE), *places, *sets])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    models = {model["id"]: model for model in report["models"]}
    assert set(models) == {"student", "control", "student/onnx:int8", "student/gguf:Q8_0"}
    assert all(model["error"] is None for model in models.values())
    assert report["verdict"]["result"] == "pass"
    # A T5 of one random layer is no better than the commonest answer: no saving is claimed, and the price is there.
    assert report["cost"]["comparison"] is None
    assert {"baseline"} <= {warning["kind"] for warning in report["verdict"]["warnings"]}
    assert "mistral-small-3.1" in json.dumps(report["cost"]["cells"])
    assert (tmp_path / "out" / "ledger-signal.parquet").is_file()
    assert "secret" not in (tmp_path / "out" / "report.html").read_text()
