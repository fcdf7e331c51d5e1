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
from distill2edge.export import gguf_convert, gguf_vocab
from distill2edge.export.faithful import deviation_of, difference
from distill2edge.export.gguf import export_gguf
from distill2edge.export.gguf_base import layout_for, rehearse
from distill2edge.export.gguf_mix import MixExport
from distill2edge.export.gguf_rounding import Rounding, rest_type
from distill2edge.gguf.reader import read_gguf
from distill2edge.models.kinds import logits_of
from distill2edge.models.loading import load_model
from distill2edge.preflight.models import fetch_converter
from distill2edge.quantize.calibrate import read_calibration, write_calibration
from distill2edge.quantize.measure_sensitivity import read_sensitivity, write_sensitivity
from distill2edge.quantize.schemes import Mix, parse_scheme
from distill2edge.recipe.load import load_recipe
from distill2edge.runtimes import open_runtime
from distill2edge.util.progress import SilentProgress
from distill2edge.util.remembered import CACHE_VARIABLE

GRANITE: dict[str, Any] = {"embedding_multiplier": 2.0, "attention_multiplier": 0.3, "residual_multiplier": 0.5,
                           "logits_scaling": 2.0}  # fmt: skip
META = {"name": "tiny", "licence": "MIT", "recipe": "test"}


@pytest.fixture(scope="module")
def granite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("granite")
    tiny_family(directory, "granite", **GRANITE)
    return directory


def kl(model_dir: Path, out: Path) -> float:
    """Nats per token of PyTorch || file."""
    ids = np.random.default_rng(7).integers(3, 390, 60).tolist()
    with torch.no_grad():
        expected = logits_of(load_model(model_dir, dtype=torch.float32).eval(), ids, 0).numpy()
    runtime = open_runtime("llama.cpp", out, threads=1, context=72)
    got = runtime.logits(ids, range(60))
    runtime.close()
    return difference(expected, got, deviation_of([expected]))[0]


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
    assert kl(granite, tmp_path) < 0.01


def test_a_head_that_is_the_embedding_is_there_where_llama_cpp_asks_for_it(tmp_path: Path) -> None:
    tiny_family(tmp_path / "model", "nemotron")
    facts = export_gguf(tmp_path / "model", parse_scheme("gguf:Q8_0"), META, tmp_path, SilentProgress())
    assert facts["faithful"]["kl"] < 1e-6
    assert {"output.weight", "token_embd.weight"} < set(read_gguf(tmp_path / "model.gguf").tensors)


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
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
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
    with pytest.raises(UserError, match="does not compute what the model does in PyTorch"):
        rehearse(granite, "", tmp_path, SilentProgress(), converter=tmp_path / "llama.cpp" / gguf_convert.SCRIPT)


def test_a_covered_family_is_not_rehearsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_convert, "convert", lambda *_: pytest.fail("converted"))
    tiny_llama(tmp_path / "model")
    rehearse(tmp_path / "model", "", tmp_path, SilentProgress())


# --- rounding by the names of tensors ------------------------------------------------------


def test_rows_of_a_converted_file_are_found(granite: Path, tmp_path: Path) -> None:
    """llama.cpp turns neighbouring pairs of a head's rows where transformers turns halves."""
    layout = layout_for(granite, tmp_path, SilentProgress())
    assert layout.unknown == ()
    assert layout.sources["blk.1.attn_q.weight"] == "model.layers.1.self_attn.q_proj.weight"
    assert layout.sources["token_embd.weight"] == "model.embed_tokens.weight"
    order = layout.order("blk.0.attn_q.weight", 64)
    assert order is not None
    assert order[:4].tolist() == [0, 8, 1, 9]
    assert layout.order("blk.0.attn_v.weight", 32) is None
    rows = np.arange(64)[:, None]
    assert np.array_equal(layout.to_hf("blk.0.attn_q.weight", layout.to_gguf("blk.0.attn_q.weight", rows)), rows)


def test_a_mix_of_a_converted_family_goes_by_what_was_measured(tmp_path: Path) -> None:
    """Convolutions between attention: what is no matrix of the model stays, all else is chosen by sensitivity."""
    quiet, model = SilentProgress(), tmp_path / "model"
    tiny_family(model, "lfm2", num_hidden_layers=2, layer_types=["conv", "full_attention"], block_dim=64,
                block_ff_dim=128, conv_L_cache=3)  # fmt: skip
    rows = {f"row{n}": np.random.default_rng(n).integers(3, 390, 60).tolist() for n in range(8)}
    known, out = tmp_path / "s", tmp_path / "mix"
    write_calibration(model, rows, (), known, quiet, max_tokens=2048, dataset="rows", grams=True)
    facts = write_sensitivity(model, list(rows.values()), read_calibration(known), known, quiet, max_tokens=2048)
    mix = MixExport(Mix(budget=95_000), read_sensitivity(known, known), lambda: [], "calibration", "all")
    found = export_gguf(model, parse_scheme("gguf:mix-95kB"), META, out, quiet, rounding=Rounding(mix=mix))
    assert found["size_bytes"] <= 95_000
    types = found["mix"]["types"]
    assert len(types) == facts["tensors"] == 13
    assert {"token_embd.weight", "blk.0.shortconv.in_proj.weight", "blk.1.attn_q.weight"} < set(types)
    assert len(set(types.values())) > 1
    assert kl(model, out) < 0.1


def test_experts_of_which_nothing_was_measured_get_the_type_that_a_budget_leaves_them(tmp_path: Path) -> None:
    tiny_family(tmp_path / "model", "qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    base = gguf_convert.fetched(SilentProgress())
    vocabulary = gguf_vocab.vocabulary_of(gguf_vocab.load_tokenizer(tmp_path / "model"), 400, [], "")
    gguf_convert.convert(base, tmp_path / "model", tmp_path / "base.gguf", "F32", {}, vocabulary, None)
    file = read_gguf(tmp_path / "base.gguf")
    every = {name for name, info in file.tensors.items() if len(info.shape) > 1}
    measured = {name for name in every if "exps" not in name}
    assert len(every - measured) == 6
    weights = sum(file.tensors[name].elements for name in every)
    beside = file.size - 4 * weights
    for bits, kind in ((9.0, "Q8_0"), (8.4, "Q5_0"), (5.0, "Q4_0"), (3.0, "Q4_0")):
        assert rest_type(file, every, measured, beside + int(weights * bits / 8)) == kind
    assert rest_type(file, every, measured, None) == "Q8_0"
    few = every - {"blk.0.ffn_gate_inp.weight"}
    assert rest_type(file, every, few, beside + weights // 2) == "Q8_0"
