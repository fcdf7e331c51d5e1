"""`pack --target web` in headless Chromium: the native tokens, its own proof, no network, and what a browser lacks."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from made_run import made_run, write_readable
from tiny import tiny_llama

from distill2edge.cli.main import main
from distill2edge.data.model_inputs import InputForm
from distill2edge.handover import selftest
from distill2edge.intake.archives import Refused, download_npm
from distill2edge.util.files import write_json

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")
PLAYWRIGHT = ("playwright-core@1.65.1", "6f5a60be62a4fddfbe7d10c448d8fbd54547da3358f2f8a04211440471ee863e")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None or NODE is None, reason="no Chromium, or no Node.js here"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a decoder of SmolLM2's widths. In F16: where activations are rounded, near ties of a random model fall
    either way."""
    root = tmp_path_factory.mktemp("finished")
    model = tiny_llama(root / "decoder", layers=8, hidden=576, scale=0.05, tied=False)
    write_readable(model, root / "decoder")
    return made_run(root, {"gguf:F16": InputForm("decoder", "chat", "Be brief.", 128)})


@pytest.fixture(scope="module")
def pack(finished: Path) -> Path:
    out = finished / "web"
    done = CliRunner().invoke(main, ["pack", str(finished), "--target", "web", "--out", str(out)])
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture(scope="module")
def playwright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("playwright")
    try:
        archive = download_npm(*PLAYWRIGHT, place)
    except Refused as error:
        pytest.skip(f"no Playwright: {error}")
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    return place / "package"


@pytest.fixture(scope="module")
def address(pack: Path) -> Iterator[str]:
    """A server of static files, and nothing more."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(pack)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}/?device=browser"
    server.shutdown()


def browse(playwright: Path, address: str, without: str = "") -> dict[str, Any]:
    command = [str(NODE), str(Path(__file__).with_name("browse.cjs")), str(playwright), str(BROWSER), address, without]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_page_gives_the_native_tokens_without_a_network(
    pack: Path, playwright: Path, address: str, finished: Path, tmp_path: Path
) -> None:
    native = subprocess.run(
        [sys.executable, str(pack / "predict.py"), "a good film"], capture_output=True, text=True, check=True
    ).stdout
    found = browse(playwright, address)
    assert found["proof"] is not None, found["failed"]
    assert "ready" in found["online"]["state"], found["online"]["state"]
    # Some forty tokens: later, a near tie of this random model may fall the other way (the probes' tokens do not).
    assert found["online"]["text"][:120] == native[:120]
    assert found["offline"]["text"] == found["online"]["text"]
    assert "tokens/s" in found["online"]["speed"]
    assert found["asked"] == [address.partition("/?")[0]]
    proof = found["proof"]
    assert (proof["passed"], proof["faults"]) == (True, [])
    assert proof["same_tokens"] == proof["checks"]["tokens"]["prompts"]
    assert proof["digest"] == selftest.digest_of(proof)
    assert proof["speed"]["decode_tps"] > 0
    write_json(tmp_path / "proof.json", proof)
    done = CliRunner().invoke(main, ["report", str(finished), "--add", str(tmp_path / "proof.json")])
    assert done.exit_code == 0, done.output
    assert json.loads((finished / "report.json").read_text())["devices"][0]["device"] == "browser"


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("delete WebAssembly.Suspending", "this browser lacks: WebAssembly JSPI"),
        ("WebAssembly.validate = () => false", "WebAssembly SIMD, WebAssembly exception handling"),
        ("delete globalThis.WebAssembly", "this browser lacks: WebAssembly"),
    ],
)
def test_a_page_says_what_the_browser_lacks(playwright: Path, address: str, without: str, said: str) -> None:
    assert said in browse(playwright, address, without)["state"]
