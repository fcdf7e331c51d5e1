"""T5 in GGUF: llama.cpp computes what PyTorch does, from source to target, whatever the depths and the head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_t5

from distill2edge.errors import UserError
from distill2edge.export.gguf import export_gguf
from distill2edge.gguf.reader import read_gguf
from distill2edge.models.loading import load_model
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.protocol import logits_at
from distill2edge.student.seq2seq_layers import keep_blocks
from distill2edge.util.progress import SilentProgress

PAIRS = (([5, 9, 33, 60, 8, 1], [7, 8, 21, 1]), ([*range(10, 150), 1], [70, 80, 21, 5, 6, 1]), ([44, 1], [3, 1]))


def saved(directory: Path, *, depths: tuple[int, int] = (2, 2), untied: bool = False) -> Any:
    """A random T5 in `directory`, with fewer decoder blocks or a head of its own."""
    model: Any = tiny_t5(directory, layers=2)
    keep_blocks(model, range(depths[0]), range(depths[1]))
    if untied:
        model.config.scale_decoder_outputs = False
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight) * 0.3)
    model.save_pretrained(directory)
    return load_model(directory).eval()


def dense(model: Any, source: list[int], target: list[int]) -> np.ndarray:
    with torch.no_grad():
        decoder = torch.tensor([[0, *target[:-1]]])
        out: np.ndarray = model(input_ids=torch.tensor([source]), decoder_input_ids=decoder).logits[0].numpy()
        return out


@pytest.mark.parametrize("depths", [(2, 2), (2, 1)])
def test_llama_cpp_computes_what_torch_computes(tmp_path: Path, depths: tuple[int, int]) -> None:
    model = saved(tmp_path / "model", depths=depths)
    facts = export_gguf(tmp_path / "model", parse_scheme("gguf:F32"), {"name": "x"}, tmp_path / "out", SilentProgress())
    assert facts["parameters"] == model.num_parameters()  # a tied embedding is stored once
    runtime = open_runtime("llama.cpp", tmp_path / "out", threads=1, context=256)
    for source, target in PAIRS:
        wanted, prompt, ids = dense(model, source, target), len(source), [*source, *target]
        positions = list(range(prompt - 1, len(ids) - 1))
        np.testing.assert_allclose(logits_at(runtime, ids, positions, prompt), wanted, atol=0.03)
        steps = [runtime.prefill(source), *(runtime.decode(token) for token in target[:-1])]
        np.testing.assert_allclose(np.stack(steps), wanted, atol=0.03)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        runtime.decode(100_000)
    runtime.close()


def test_a_quantized_file_says_what_the_model_says(tmp_path: Path) -> None:
    model = saved(tmp_path / "model")
    export_gguf(tmp_path / "model", parse_scheme("gguf:Q8_0"), {"name": "x"}, tmp_path / "out", SilentProgress())
    runtime = open_runtime("llama.cpp", tmp_path / "out", threads=1, context=256)
    for source, target in PAIRS:
        ids, positions = [*source, *target], list(range(len(source) - 1, len(source) + len(target) - 1))
        wanted = dense(model, source, target)
        found = logits_at(runtime, ids, positions, len(source))
        assert np.abs(found - wanted).mean() < 0.2 * wanted.std()
    file = read_gguf(tmp_path / "out" / "model.gguf")
    assert file.get("t5.decoder_start_token_id") == 0
    assert file.get("tokenizer.ggml.add_eos_token") is True


def test_a_head_of_its_own_is_kept(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", untied=True)
    export_gguf(tmp_path / "model", parse_scheme("gguf:F32"), {}, tmp_path / "out", SilentProgress())
    runtime = open_runtime("llama.cpp", tmp_path / "out", threads=1, context=256)
    source, target = PAIRS[0]
    wanted = dense(model, source, target)
    np.testing.assert_allclose(runtime.prefill(source), wanted[0], atol=0.03 * float(np.abs(wanted).max()))
    assert "output.weight" in read_gguf(tmp_path / "out" / "model.gguf").tensors


@pytest.mark.parametrize(
    ("depths", "changes", "said"),
    [
        ((2, 2), {"relative_attention_max_distance": 64}, "relative_attention_max_distance"),
        ((2, 2), {"feed_forward_proj": "gated-silu", "dense_act_fn": "silu"}, "activation"),
        ((1, 2), {}, "a decoder of 2 blocks after an encoder of 1"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    tmp_path: Path, depths: tuple[int, int], changes: dict[str, object], said: str
) -> None:
    saved(tmp_path / "model", depths=depths)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match=said):
        export_gguf(tmp_path / "model", parse_scheme("gguf:F32"), {}, tmp_path / "out", SilentProgress())
