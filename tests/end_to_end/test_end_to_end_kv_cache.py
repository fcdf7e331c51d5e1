"""Keys and values in 8 and 4 bits: verified, benched, reported and handed over, of GGUF files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tiny import tiny_llama, tiny_recipe

import distill2edge as d2e
from distill2edge.cli.main import main
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe.load import load_recipe
from distill2edge.verify.gates import precision_of

FILE = "student/gguf:Q8_0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose heads are as wide as a block."""
    root = tmp_path_factory.mktemp("run")
    path = tiny_recipe(root)
    tiny_llama(root / "teacher", layers=2, hidden=128)
    recipe = yaml.safe_load(path.read_text())
    recipe["export"] = ["gguf:Q8_0", "onnx:int8"]
    recipe["verify"] |= {"kv_cache": ["f16", "q8_0", "q4_0"], "max_kl": None}
    recipe["bench"] |= {"torch": False}
    path.write_text(yaml.safe_dump(recipe))
    d2e.run(path, store=root / "store", out=root / "out", quiet=True)
    return root


def report(root: Path) -> Any:
    return json.loads((root / "out" / "report.json").read_text())


def test_each_type_is_verified_and_benched(finished: Path) -> None:
    found = report(finished)
    models = {model["id"]: model for model in found["models"]}
    assert [name for name in models if "+kv-" in name] == [f"{FILE}+kv-q8_0", f"{FILE}+kv-q4_0"]  # none of ONNX
    kl = {cache: models[f"{FILE}{cache}"]["kl_student"]["value"] for cache in ("", "+kv-q8_0", "+kv-q4_0")}
    assert kl["+kv-q4_0"] > kl["+kv-q8_0"]
    assert kl["+kv-q4_0"] > 1.2 * kl[""]
    told = models[f"{FILE}+kv-q4_0"]["kv_cache"]
    assert told == {"file": FILE, "type": "q4_0", "token_bytes": 72, "plain_token_bytes": 256}  # 2 heads of 2 x 32
    cells = {cell["model"]: cell for cell in found["bench"]["cells"]}
    assert all(cells[f"{FILE}+kv-{cache}"]["error"] is None for cache in ("q8_0", "q4_0"))
    assert found["headline"] is None or "+kv-" not in found["headline"]["model"]
    page = (finished / "out" / "report.md").read_text()
    assert "Keys and values" in page


def test_what_was_verified_is_what_people_run(finished: Path) -> None:
    """The folder that ships says how, and its program and `chat` give the same answers."""
    (folder,) = (finished / "out" / "exports").glob("*gguf-Q8_0")
    assert json.loads((folder / "input.json").read_text())["kv_cache"] == ["f16", "q8_0", "q4_0"]
    assert "llama-cli -m model.gguf -fa on -ctk q8_0 -ctv q8_0" in (folder / "USE.md").read_text()
    assert "OLLAMA_KV_CACHE_TYPE=q8_0" in (folder / "Modelfile").read_text()
    text = "Review: film 3 the 111 dog\nSentiment:"
    said: dict[str, list[str]] = {}
    for cache in ("f16", "q4_0"):
        asked = ["chat", str(folder), "--kv-cache", cache, "--prompt", text]
        chatted = CliRunner().invoke(main, asked)
        assert chatted.exit_code == 0, chatted.output
        command = [sys.executable, str(folder / "predict.py"), "--kv-cache", cache, text]
        alone = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        said[cache] = [chatted.stdout.strip(), alone.strip()]
        assert said[cache][0] == said[cache][1]
    assert said["f16"] != said["q4_0"]


def test_a_runtime_without_such_a_cache_says_which_has_one(finished: Path) -> None:
    (folder,) = (finished / "out" / "exports").glob("*onnx-int8")
    with pytest.raises(UserError, match=r"for decoders in llama\.cpp, not .* in onnxruntime"):
        d2e.open_model(folder, kv_cache="q8_0")
    with pytest.raises(RecipeErrors, match=r"llama\.cpp keeps keys and values in fewer bits, ONNX Runtime and"):
        load_recipe(finished / "tiny.yaml", ["export=[onnx:int8]"])


def test_the_gate_is_that_of_the_coarser_of_weights_and_cache() -> None:
    entry = {"scheme": "gguf:F16", "kv_cache": {"type": "q8_0"}}
    assert precision_of(entry) == "eight_bits"
    assert precision_of({**entry, "kv_cache": {"type": "q4_0"}}) == "lower"
    assert precision_of({"scheme": "gguf:Q4_0", "kv_cache": {"type": "q8_0"}}) == "lower"
    assert precision_of({"scheme": "gguf:Q8_0"}) == "eight_bits"
