"""The llama.cpp runtime: the protocol's promises, on a tiny model exported in F32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.export.gguf import export_gguf
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.llama_cpp import LlamaCppRuntime
from distill2edge.util.progress import SilentProgress
from tests.tiny import tiny_family, tiny_llama

RNG = np.random.default_rng(1)
IDS = RNG.integers(3, 400, 50).tolist()


def same(got: np.ndarray, wanted: np.ndarray) -> bool:
    """Equal but for the order of summation: llama.cpp keeps the cache and the GELU table in half precision."""
    shifted = [rows - np.log(np.exp(rows).sum(-1, keepdims=True)) for rows in (wanted.astype(float), got)]
    return float((np.exp(shifted[0]) * (shifted[0] - shifted[1])).sum(-1).max()) < 1e-5


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    tiny_llama(directory / "hf")
    export_gguf(directory / "hf", parse_scheme("gguf:F32"), {"name": "t"}, directory / "out", SilentProgress())
    return directory / "out" / "model.gguf"


@pytest.fixture(scope="module")
def full(gguf: Path) -> np.ndarray:
    """Logits of every position, one `llama_decode`."""
    runtime = LlamaCppRuntime(gguf, threads=1, context=64)
    rows = runtime.logits(IDS, range(len(IDS)))
    runtime.close()
    return rows


def test_opens_a_file_or_its_directory_through_the_common_door(gguf: Path, full: np.ndarray) -> None:
    for path in (gguf, gguf.parent):
        runtime = open_runtime("llama.cpp", path, threads=1, context=64)
        assert runtime.name == "llama.cpp"
        assert runtime.vocab_size == 400
        np.testing.assert_allclose(runtime.logits(IDS, [3]), full[[3]], atol=1e-4)
        runtime.close()
        runtime.close()


@pytest.mark.parametrize("batch", [1, 7, 16, 50])
def test_prompts_longer_than_a_batch(batch: int, gguf: Path, full: np.ndarray) -> None:
    runtime = LlamaCppRuntime(gguf, threads=1, context=64, batch=batch)
    assert same(runtime.logits(IDS, range(len(IDS))), full)
    assert same(runtime.prefill(IDS), full[-1])
    runtime.close()


def test_positions_in_any_order_and_twice(gguf: Path, full: np.ndarray) -> None:
    runtime = LlamaCppRuntime(gguf, threads=1, context=64, batch=16)
    positions = [40, 3, 3, 0, 17]
    assert same(runtime.logits(IDS, positions), full[positions])
    assert runtime.logits(IDS, []).shape == (0, 400)
    runtime.close()


def test_prefill_then_decode_equals_one_pass(gguf: Path, full: np.ndarray) -> None:
    runtime = LlamaCppRuntime(gguf, threads=1, context=64)
    for _ in range(2):  # the second prefill starts from an empty cache
        rows = [runtime.prefill(IDS[:20])] + [runtime.decode(token) for token in IDS[20:]]
        assert same(np.stack(rows), full[19:])
    runtime.close()


def test_decode_returns_its_own_array(gguf: Path) -> None:
    runtime = LlamaCppRuntime(gguf, threads=1, context=64)
    first = runtime.prefill(IDS[:5])
    kept = first.copy()
    runtime.decode(7)
    np.testing.assert_array_equal(first, kept)
    runtime.close()


@pytest.mark.parametrize("sequences", [1, 3, 8])
def test_many_sequences_equal_one_by_one(sequences: int, gguf: Path) -> None:
    rng = np.random.default_rng(2)
    requests = []
    for length in (5, 30, 1, 12, 40, 8, 8, 23, 2):
        positions = sorted(rng.choice(length, size=min(length, 6), replace=False).tolist())
        requests.append((rng.integers(3, 400, length).tolist(), positions))
    requests.insert(3, (rng.integers(3, 400, 60).tolist(), [0, 33, 59]))  # longer than a batch
    one = LlamaCppRuntime(gguf, threads=1, context=64, cache="f32")
    many = LlamaCppRuntime(gguf, threads=1, context=64, batch=48, sequences=sequences, cache="f32")
    rows = many.logits_many(requests)
    assert len(rows) == len(requests)
    for (ids, positions), got in zip(requests, rows, strict=True):
        assert same(got, one.logits(ids, positions))
    assert many.logits_many([]) == []
    one.close()
    many.close()


def test_sliding_window_cache_with_several_sequences(tmp_path: Path) -> None:
    tiny_family(tmp_path / "hf", "gemma3_text", num_hidden_layers=7)
    export_gguf(tmp_path / "hf", parse_scheme("gguf:F32"), {"name": "t"}, tmp_path / "out", SilentProgress())
    one = LlamaCppRuntime(tmp_path / "out", threads=1, context=64, cache="f32")
    many = LlamaCppRuntime(tmp_path / "out", threads=1, context=64, sequences=3, cache="f32")
    requests = [(RNG.integers(3, 400, length).tolist(), [length - 1]) for length in (40, 50, 20)]
    for (ids, positions), got in zip(requests, many.logits_many(requests), strict=True):
        assert same(got, one.logits(ids, positions))
    one.close()
    many.close()


def test_impossible_requests(gguf: Path) -> None:
    runtime = LlamaCppRuntime(gguf, threads=1, context=16)
    with pytest.raises(ValueError, match="no token ids"):
        runtime.prefill([])
    with pytest.raises(ValueError, match="do not fit"):
        runtime.prefill(IDS)
    with pytest.raises(ValueError, match="vocabulary"):
        runtime.prefill([400])
    with pytest.raises(ValueError, match="outside"):
        runtime.logits([1, 2], [2])
    with pytest.raises(ValueError, match="ascend"):
        runtime.logits_many([([1, 2, 3], [2, 1])])
    runtime.prefill(IDS[:15])
    with pytest.raises(ValueError, match="vocabulary"):
        runtime.decode(-1)
    runtime.decode(5)
    with pytest.raises(ValueError, match="full"):
        runtime.decode(5)
    runtime.close()


def test_bad_files_and_devices(gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no such GGUF"):
        LlamaCppRuntime(tmp_path / "missing.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a usable GGUF"):
        LlamaCppRuntime(cut)
    with pytest.raises(UserError, match="unknown device"):
        LlamaCppRuntime(gguf, device="tpu")
    import llama_cpp

    if not llama_cpp.llama_supports_gpu_offload():
        with pytest.raises(EnvironmentFault, match="CPU only"):
            LlamaCppRuntime(gguf, device="cuda")
    # A sound container with a model that llama.cpp refuses: its own words are passed on, and nothing is printed.
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(gguf.read_bytes().replace(b"llama.block_count", b"llama.block_cousin"[:17]))
    with pytest.raises(UserError, match="block_count"):
        LlamaCppRuntime(wrong)
    assert capfd.readouterr().err == ""
