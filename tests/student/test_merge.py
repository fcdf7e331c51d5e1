"""The merged model is the trained one, and the survival figures are what their definition says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from distill2edge.errors import UserError
from distill2edge.quantize.rounding_step import rounding_step
from distill2edge.quantize.schemes import ALL, parse_scheme
from distill2edge.student.merge import merge
from tests.student.test_student import rows
from tests.tiny import tiny_llama

SCHEMES = [parse_scheme(name) for name in ("gguf:Q8_0", "gguf:Q4_0", "onnx:int8", "onnx:int4-b32")]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("base")
    tiny_llama(path)
    return path


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(path / "adapter")
    return path


def test_the_merged_model_is_the_adapted_one(base, trained, tmp_path):
    facts = merge(base, trained, rows(), SCHEMES, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), trained / "adapter").eval()
    ids = torch.tensor([rows()[0].ids])
    with torch.no_grad():
        a, b, plain = (m(ids).logits for m in (merged, adapted, AutoModelForCausalLM.from_pretrained(base)))
    torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)
    assert (a - plain).abs().max() > 0.5
    assert facts["max_logit_difference"] < 1e-3 * facts["max_logit"]
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in stored.values())
    assert not any("lora" in name for name in stored)
    assert "lm_head.weight" not in stored
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()


def test_survival_is_delta_against_step_for_every_trained_tensor(base, trained, tmp_path):
    facts = merge(base, trained, rows(), SCHEMES, tmp_path)
    record = json.loads((tmp_path / "merge.json").read_text())
    old, new = load_file(base / "model.safetensors"), load_file(tmp_path / "model" / "model.safetensors")
    for scheme in SCHEMES:
        entries = {entry["tensor"]: entry for entry in record["survival"][str(scheme)]}
        assert len(entries) == 14  # seven linear layers in two blocks; the embedding was not trained
        for name, entry in entries.items():
            delta = (new[name] - old[name]).square().mean().sqrt().item()
            assert entry["delta_rms"] == pytest.approx(delta, rel=1e-5)
            assert entry["step"] == pytest.approx(rounding_step(new[name], scheme), rel=1e-6)
            assert entry["ratio"] == pytest.approx(entry["delta_rms"] / entry["step"])
        assert facts["least_ratio"][str(scheme)] == min(entry["ratio"] for entry in entries.values())
    assert facts["least_ratio"]["gguf:Q8_0"] > 10 * facts["least_ratio"]["gguf:Q4_0"]


def test_full_training(base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight += 0.01
    model.save_pretrained(tmp_path / "trained" / "model")
    facts = merge(base, tmp_path / "trained", rows(), SCHEMES, tmp_path / "work")
    assert facts["kind"] == "full"
    assert facts["max_logit_difference"] == 0
    survival = json.loads((tmp_path / "work" / "merge.json").read_text())["survival"]["gguf:Q8_0"]
    assert [entry["tensor"] for entry in survival] == ["model.layers.0.mlp.up_proj.weight"]
    assert survival[0]["delta_rms"] == pytest.approx(0.01, rel=1e-4)


def test_a_bfloat16_base_is_merged_in_float32(base, trained, tmp_path):
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).write_bytes((base / name).read_bytes())
    merge(tmp_path / "base", trained, rows(), [], tmp_path / "work")
    stored = load_file(tmp_path / "work" / "model" / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in stored.values())


def test_a_quantized_base_is_refused(base, trained, tmp_path):
    for path in base.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="quantized"):
        merge(tmp_path, trained, rows(), [], tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_merge_that_changes_the_function_fails_loudly(base, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(PeftModel, "merge_and_unload", lambda self, **kw: self.unload(), raising=False)
    with pytest.raises(ArithmeticError, match="differs from the trained one"):
        merge(base, trained, rows(), [], tmp_path)
    assert not (tmp_path / "merge.json").exists()


def test_nothing_trained(base, tmp_path):
    with pytest.raises(UserError, match="neither adapter/ nor model/"):
        merge(base, tmp_path / "empty", rows(), [], tmp_path / "work")


# --- grids ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Q8_0", "Q5_0", "Q4_0", "Q5_1", "Q4_1", "F16", "BF16"])
def test_the_step_predicts_the_rounding_error_of_the_real_quantizer(name):
    """Uniform rounding to a step d errs by d / sqrt(12)."""
    torch.manual_seed(0)
    weight = torch.randn(64, 512) * 0.05
    kind = GGMLQuantizationType[name]
    back = torch.from_numpy(dequantize(quantize(weight.numpy(), kind), kind).copy())
    error = (back - weight).square().mean().sqrt().item()
    assert rounding_step(weight, parse_scheme(f"gguf:{name}")) / 12**0.5 == pytest.approx(error, rel=0.12)


@pytest.mark.parametrize("columns", [512, 576, 100])
def test_every_scheme_has_a_step(columns):
    weight = torch.randn(8, columns)
    steps = {str(scheme): rounding_step(weight, scheme) for scheme in ALL}
    assert all(0 < step < 10 for step in steps.values())
    assert steps["gguf:F16"] < steps["gguf:BF16"] < steps["gguf:Q8_0"] < steps["gguf:Q5_0"] < steps["gguf:Q4_0"]
    assert steps["gguf:Q4_K_M"] == steps["gguf:Q5_0" if columns % 256 else "gguf:Q4_1"]  # llama.cpp's fallback


def test_the_step_of_a_block_with_an_outlier_is_the_outliers():
    weight = torch.full((1, 64), 0.01)
    weight[0, 0] = 1.27
    expected = (((2 * 1.27 / 254) ** 2 + (2 * 0.01 / 254) ** 2) / 2) ** 0.5
    assert rounding_step(weight, parse_scheme("gguf:Q8_0")) == pytest.approx(expected, rel=1e-6)
