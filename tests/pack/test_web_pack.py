"""`pack --target web` in headless Chromium: the native tokens, its own proof, no network, and what a browser lacks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import IN_CHROMIUM, drive, get_playwright, served
from click.testing import CliRunner
from encoders import tiny_encoder
from made_run import made_run, write_readable
from tiny import tiny_bert, tiny_embedder, tiny_llama

from distill2edge.cli.main import main
from distill2edge.data.model_inputs import InputForm
from distill2edge.handover import selftest
from distill2edge.pack.probes import TOKENIZED
from distill2edge.util.files import write_json

BROWSE = Path(__file__).with_name("browse.cjs")
pytestmark = IN_CHROMIUM


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
    return get_playwright(tmp_path_factory.mktemp("playwright"))


@pytest.fixture(scope="module")
def address(pack: Path) -> Iterator[str]:
    with served(pack) as found:
        yield f"{found}/?device=browser"


def browse(playwright: Path, address: str, without: str = "") -> dict[str, Any]:
    return dict(json.loads(drive(BROWSE, playwright, address, without)))


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


ENCODERS: dict[str, tuple[Callable[[Path], Any], InputForm]] = {
    "words, classifier": (lambda place: tiny_bert(place, layers=1, scale=0.3), InputForm("classifier", max_length=40)),
    "bytes, classifier": (lambda place: tiny_encoder(place, "roberta"), InputForm("classifier", max_length=40)),
    "unigram, multi-label": (lambda place: tiny_encoder(place, "xlm-roberta"), InputForm("multi-label", max_length=40)),
    "pair, classifier": (
        lambda place: tiny_encoder(place, "bert"), InputForm("classifier", max_length=40, pair="{{ second }}")
    ),
    "embedder": (tiny_embedder, InputForm("embedder", max_length=40)),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_a_page_runs_an_encoder_as_natively(playwright: Path, name: str, tmp_path: Path) -> None:
    make, form = ENCODERS[name]
    make(tmp_path / form.kind)
    run = made_run(tmp_path, {"onnx:fp32": form})
    done = CliRunner().invoke(main, ["pack", str(run), "--target", "web", "--out", str(tmp_path / "web")])
    assert done.exit_code == 0, done.output
    texts = ["a good film", "a bad film"][: 2 if form.pair else 1]
    native = subprocess.run(
        [sys.executable, str(tmp_path / "web" / "predict.py"), *texts], capture_output=True, text=True, check=True
    ).stdout
    with served(tmp_path / "web") as address:
        found = browse(playwright, f"{address}/?device=browser")
    assert found["proof"] is not None, found["failed"]
    assert (found["proof"]["passed"], found["proof"]["faults"]) == (True, [])
    assert found["proof"]["checks"]["tokens"]["texts"] == len(TOKENIZED)
    assert found["online"]["text"] == found["offline"]["text"]
    assert numbers(found["online"]["text"]) == pytest.approx(numbers(native), abs=2e-4)
    assert words(found["online"]["text"]) == words(native)
    assert found["asked"] == [address]
    write_json(tmp_path / "proof.json", found["proof"])
    done = CliRunner().invoke(main, ["report", str(run), "--add", str(tmp_path / "proof.json")])
    assert done.exit_code == 0, done.output
    assert json.loads((run / "report.json").read_text())["devices"][0]["texts_per_s"] > 0


def numbers(said: str) -> list[float]:
    """Every number of an answer."""
    return [float(each) for each in re.findall(r"-?\d+\.\d+", said)]


def words(said: str) -> list[str]:
    """Every label of an answer."""
    return re.findall(r"[a-z]+", said)
