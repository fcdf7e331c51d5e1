"""llama.cpp's own converter: families that no writer here covers, and everything that can go wrong with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import RECIPE, tiny_family, tiny_llama

import distill2edge as d2e
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.export import gguf_convert
from distill2edge.export.faithful import difference
from distill2edge.export.gguf import export_gguf
from distill2edge.export.gguf_base import rehearse
from distill2edge.gguf.reader import read_gguf
from distill2edge.intake import bundled
from distill2edge.models.kinds import logits_of
from distill2edge.models.loading import load_model
from distill2edge.preflight.models import fetch_converter
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.recipe.load import load_recipe
from distill2edge.runtimes import open_runtime
from distill2edge.util.progress import SilentProgress

GRANITE: dict[str, Any] = {"embedding_multiplier": 2.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5,
                           "logits_scaling": 2.0}  # fmt: skip
META = {"name": "tiny", "licence": "MIT", "recipe": "test"}


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("granite")
    tiny_family(directory, "granite", **GRANITE)
    return directory


def recipe_of(model: Path, tmp_path: Path, export: str) -> Path:
    (model / "README.md").write_text("---\nlicense: mit\n---\n")
    rows = [{"text": f"film {n} the {n * 37} dog", "label": (" bad", " good")[n % 2]} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.format(name="tiny", model=model, rows=tmp_path / "rows.jsonl")
    (tmp_path / "r.yaml").write_text(text.replace("[onnx:int8, gguf:Q8_0]", export))
    return tmp_path / "r.yaml"


def test_a_family_without_a_writer_here_is_converted(granite: Path, tmp_path: Path) -> None:
    """Text and template of the file are ours, its tensors are PyTorch's."""
    facts = export_gguf(granite, parse_scheme("gguf:Q8_0"), META, tmp_path, SilentProgress())
    assert facts["converter"] == gguf_convert.SCRIPT
    assert facts["faithful"]["kl"] < 1e-6
    assert facts["tokenizer"]["different"] == []
    file = read_gguf(tmp_path / "model.gguf")
    assert file.architecture == "granite"
    assert file.get("general.name") == "tiny"
    assert file.get("distill2edge.recipe") == "test"
    assert "<|im_start|>" in file.get("tokenizer.chat_template")
    ids = np.random.default_rng(7).integers(3, 390, 60).tolist()
    with torch.no_grad():
        expected = logits_of(load_model(granite, dtype=torch.float32).eval(), ids, 0).numpy()
    runtime = open_runtime("llama.cpp", tmp_path, threads=1, context=72)
    got = runtime.logits(ids, range(60))
    runtime.close()
    assert difference(expected, got)[0] < 0.01


def test_a_family_that_nobody_converts_is_refused_before_anything(tmp_path: Path) -> None:
    tiny_family(tmp_path / "model", "gpt_neo", num_layers=2, attention_types=[[["global"], 2]], num_heads=4)
    path = recipe_of(tmp_path / "model", tmp_path, "[gguf:Q8_0]")
    with pytest.raises(UserError, match="nothing writes GPTNeoForCausalLM as GGUF") as caught:
        d2e.check(path)
    assert "--converter" in str(caught.value)
    assert "use ONNX" not in str(caught.value)  # which has no builder for it either


def test_without_a_network_the_command_that_fetches_is_named(
    granite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(bundled.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    path = recipe_of(granite, tmp_path, "[gguf:Q8_0]")
    assert d2e.check(path, quiet=True) == ["bundled:llama.cpp-converter"]
    with pytest.raises(EnvironmentFault, match="could not download llama-cpp-python") as caught:
        fetch_converter(load_recipe(path), SilentProgress())
    assert "distill2edge fetch llama.cpp-converter" in caught.value.fix
    fetch_converter(load_recipe(path, ["export=[onnx:int8]"]), SilentProgress())  # none of its business


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "convert_hf_to_gguf.py"
    path.write_text(text)
    return path


def test_a_converter_that_fails_says_its_last_words(granite: Path, tmp_path: Path) -> None:
    failing = script(tmp_path, "import sys\nsys.exit('KeyError: what it lacks')\n")
    with pytest.raises(UserError, match=r"converter failed; its last words: .*what it lacks") as caught:
        rehearse(granite, "", tmp_path, SilentProgress(), converter=failing)
    assert caught.value.where == str(failing)
    assert not list(tmp_path.glob("scratch*"))
    with pytest.raises(UserError, match="wrote no file"):
        rehearse(granite, "", tmp_path, SilentProgress(), converter=script(tmp_path, "pass"))


def test_a_converter_that_hangs_is_ended(granite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_convert, "_SECONDS", 1)
    with pytest.raises(UserError, match="it took over 1 s"):
        rehearse(granite, "", tmp_path, SilentProgress(), converter=script(tmp_path, "while True: pass"))


@pytest.mark.slow
def test_a_converter_that_writes_another_model_is_refused(granite: Path, tmp_path: Path) -> None:
    """It scales the logits otherwise than the model does."""
    real = gguf_convert.fetched(SilentProgress())
    shutil.copytree(real.parent, tmp_path / "llama.cpp")
    family = tmp_path / "llama.cpp" / "conversion" / "granite.py"
    text = family.read_text()
    assert 'self.hparams.get("logits_scaling")' in text
    family.write_text(text.replace('self.hparams.get("logits_scaling")', "0.5"))
    with pytest.raises(UserError, match="another model than PyTorch"):
        rehearse(granite, "", tmp_path, SilentProgress(), converter=tmp_path / "llama.cpp" / gguf_convert.SCRIPT)


def test_a_covered_family_is_not_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_convert, "convert", lambda *_: pytest.fail("converted"))
    tiny_llama(tmp_path / "model")
    rehearse(tmp_path / "model", "", tmp_path, SilentProgress())
