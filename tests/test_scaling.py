"""Scaling before rounding: the model stays what it is, and rounding it errs less."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import tiny_family, tiny_llama

from distill2edge.architectures import load_model
from distill2edge.progress import SilentProgress
from distill2edge.quantize.calibrate import read_calibration, write_importance
from distill2edge.quantize.inputs import gguf_names
from distill2edge.quantize.rounding import compensated
from distill2edge.quantize.scales import Held
from distill2edge.quantize.scaling import Pair, best, pairs
from distill2edge.quantize.statistics import collect

ROWS = {f"row{n}": [(7 * n + 3 * i) % 397 + 3 for i in range(40)] for n in range(8)}


def logits(directory: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_model(directory, dtype=torch.float32).eval()(torch.tensor([ROWS["row1"]])).logits


def calibrated(model: Path, work: Path) -> Path:
    work.mkdir()
    write_importance(model, ROWS, (), work, SilentProgress(), max_tokens=400, dataset="rows", grams=True)
    return work


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text"])
def test_a_scaled_model_computes_the_same(tmp_path: Path, family: str) -> None:
    model = tmp_path / "model"
    tiny_llama(model) if family == "llama" else tiny_family(model, family)
    inputs = read_calibration(calibrated(model, tmp_path / "work"))
    torch.testing.assert_close(logits(inputs.model), logits(model), rtol=1e-3, atol=1e-3)
    assert len(inputs.scales) == 2 * 7  # every matrix of both blocks
    assert any(float((scale - 1).abs().max()) > 0.05 for scale in inputs.scales.values())


def test_what_is_kept_are_the_inputs_of_the_scaled_model(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model")
    inputs = read_calibration(calibrated(tmp_path / "model", tmp_path / "work"))
    scaled = load_model(inputs.model, dtype=torch.float32).eval()
    seen = collect(scaled, list(ROWS.values()), SilentProgress(), max_tokens=400, grams=True)
    for source, name in gguf_names(tmp_path / "model").items():
        if source not in seen.squares or name == "token_embd.weight":
            continue
        gram = inputs.gram(name)
        assert gram is not None
        torch.testing.assert_close(gram, seen.grams[source], rtol=1e-2, atol=1e-3 * float(gram.abs().max()))
        mean = seen.squares[source].float() / seen.tokens[source]
        torch.testing.assert_close(torch.from_numpy(inputs.importance[name]), mean, rtol=1e-2, atol=1e-4)


def test_columns_with_large_inputs_are_rounded_finer() -> None:
    generator = torch.Generator().manual_seed(0)
    loud = torch.ones(128)
    loud[::16] = 30.0
    x = torch.randn(600, 128, generator=generator) * loud
    weight = torch.randn(64, 128, generator=generator)
    squares, products = x.square().mean(0), x.T @ x / len(x)
    scale = best([weight], squares, products, Pair("norm", ("weight",)))

    def error(stored: torch.Tensor) -> float:
        return float(((stored - weight) @ x.T).square().sum())

    plain = Held.fitted(weight, "Q4_0", squares).stored(weight)
    scaled = Held.fitted(weight * scale, "Q4_0", squares / scale.square()).stored(weight * scale) / scale
    assert error(scaled) < 0.8 * error(plain)
    moved, held = compensated(weight * scale, "Q4_0", products / torch.outer(scale, scale))
    assert error(held.stored(moved) / scale) < error(scaled)


def test_a_model_without_gated_layers_is_left_alone() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    assert not list(pairs(BertForSequenceClassification(config)))
