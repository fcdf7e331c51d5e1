"""Batched writing: llama.cpp with several sequences writes what it writes alone, and what transformers writes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_llama
from transformers import AutoTokenizer, LlamaConfig, T5Config

from distill2edge.export.gguf import export_gguf
from distill2edge.generation.sampling import draw_token
from distill2edge.generation.writers import LlamaWriter, Sampling, cacheable_tokens, open_writer
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.util.progress import SilentProgress

META = {"name": "tiny", "licence": None, "teacher": None, "recipe": None, "recipe_key": None, "description": ""}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("writers")
    tiny_llama(root / "hf")
    export_gguf(root / "hf", parse_scheme("gguf:F32"), META, root / "gguf", SilentProgress())
    return root / "hf", root / "gguf" / "model.gguf"


def prompts() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(3, 400, size=3 + 5 * (n % 7)).tolist() for n in range(20)]


def test_many_sequences_write_what_one_writes_and_what_transformers_writes(models: tuple[Path, Path]) -> None:
    asked, sampling, stop = prompts(), Sampling(24), tuple(range(2, 60))  # stops that a random model meets
    many, alone = LlamaWriter(models[1], stop, sampling, 8), LlamaWriter(models[1], stop, sampling, 1)
    found = many(asked, 0)
    assert len({len(ids) for ids in found}) > 3
    assert found == alone(asked, 0)
    dense = open_writer(models[0], AutoTokenizer.from_pretrained(models[0]), sampling, stop, "transformers", None)
    same = sum(a == b for a, b in zip(found, dense(asked, 0), strict=True))
    assert same >= 15  # bfloat16, or a near-tie, may fall either way
    assert all(len(ids) <= 3 for ids in many(asked, 0, Sampling(3)))
    many.close()
    alone.close()


def test_what_is_drawn_depends_on_the_seed_alone(models: tuple[Path, Path]) -> None:
    asked, sampling = prompts()[:6], Sampling(8, 1.0, 0.9)
    writer, other = LlamaWriter(models[1], (2,), sampling, 2), LlamaWriter(models[1], (2,), sampling, 5)
    first = writer(asked, 7)
    assert first == other(asked, 7)
    assert first != writer(asked, 8)
    writer.close()
    other.close()


@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
def test_draws_follow_the_distribution_cut_to_its_nucleus(top_p: float) -> None:
    logits = np.log(np.array([0.1, 0.5, 0.05, 0.35])).astype(np.float32)
    random = np.random.default_rng(0)
    drawn = [draw_token(logits, 1.0, top_p, random) for _ in range(4000)]
    share = np.bincount(drawn, minlength=4) / 4000
    nucleus = {0.3: [0, 1, 0, 0], 0.9: [0.105, 0.526, 0, 0.368], 1.0: [0.1, 0.5, 0.05, 0.35]}[top_p]
    assert np.abs(share - nucleus).max() < 0.03


def test_on_a_gpu_a_pass_takes_what_half_of_the_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(
        num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, head_dim=128
    )
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (8 << 30, 80 << 30))
    # A token of Llama 3 8B in 16 bits: keys and values of 32 layers, 8 heads and 128 dimensions.
    of_a_token = 2 * 32 * 8 * 128 * 2
    assert cacheable_tokens(SimpleNamespace(config=config, dtype=torch.bfloat16)) == (4 << 30) // of_a_token
    t5 = T5Config(num_layers=6, d_model=512, num_heads=8, d_kv=64)
    assert cacheable_tokens(SimpleNamespace(config=t5, dtype=torch.float32)) == (4 << 30) // (2 * 6 * 8 * 64 * 4)
