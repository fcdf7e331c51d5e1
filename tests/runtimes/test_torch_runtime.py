"""The PyTorch runtime: cached decoding gives what one pass gives, and mistakes are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.torch_runtime import TorchRuntime
from tests.tiny import tiny_llama

IDS = [1, 17, 300, 42, 42, 5, 399, 120]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny_llama(path)
    return path


@pytest.fixture(scope="module")
def runtime(directory: Path) -> TorchRuntime:
    opened = open_runtime("torch", directory, threads=1, context=64)
    assert isinstance(opened, TorchRuntime)
    return opened


def test_logits_are_those_of_the_model_at_the_asked_positions(directory: Path, runtime: TorchRuntime) -> None:
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        dense = AutoModelForCausalLM.from_pretrained(directory)(torch.tensor([IDS])).logits[0].numpy()
    got = runtime.logits(IDS, [0, 3, 7])
    assert got.dtype == np.float32
    assert got.shape == (3, runtime.vocab_size)
    np.testing.assert_allclose(got, dense[[0, 3, 7]], atol=1e-5)


def test_prefill_then_decode_is_one_pass(runtime: TorchRuntime) -> None:
    whole = runtime.logits(IDS, range(len(IDS)))
    np.testing.assert_allclose(runtime.prefill(IDS[:5]), whole[4], atol=1e-5)
    for index in range(5, len(IDS)):
        np.testing.assert_allclose(runtime.decode(IDS[index]), whole[index], atol=1e-5)


def test_prefill_forgets_what_was_before(runtime: TorchRuntime) -> None:
    first = runtime.prefill(IDS)
    runtime.decode(7)
    np.testing.assert_array_equal(runtime.prefill(IDS), first)


def test_no_positions_cost_nothing(runtime: TorchRuntime) -> None:
    assert runtime.logits(IDS, []).shape == (0, runtime.vocab_size)


def test_threads_are_set(directory: Path) -> None:
    open_runtime("torch", directory, threads=1)
    assert torch.get_num_threads() == 1


def test_what_does_not_fit_is_refused(runtime: TorchRuntime) -> None:
    with pytest.raises(ValueError, match="do not fit a context of 64"):
        runtime.prefill([1] * 65)
    with pytest.raises(ValueError, match="outside"):
        runtime.logits(IDS, [8])
    with pytest.raises(ValueError, match="no token ids"):
        runtime.prefill([])
    runtime.prefill([1] * 64)
    with pytest.raises(ValueError, match="full"):
        runtime.decode(1)


def test_mistakes_name_the_fix(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(UserError, match="no such model file"):
        open_runtime("torch", tmp_path / "nothing", threads=1)
    with pytest.raises(UserError, match="not a Hugging Face model directory"):
        open_runtime("torch", tmp_path, threads=1)
    with pytest.raises(UserError, match="unknown runtime") as caught:
        open_runtime("tensorflow", directory, threads=1)
    assert "onnxruntime" in caught.value.fix
    with pytest.raises(UserError, match="unknown dtype"):
        open_runtime("torch", directory, threads=1, dtype="int3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_an_environment_fault(directory: Path) -> None:
    with pytest.raises(EnvironmentFault, match="no CUDA device"):
        open_runtime("torch", directory, threads=1, device="cuda")


def test_an_untied_half_precision_model_gives_float32_logits(tmp_path: Path) -> None:
    tiny_llama(tmp_path, tied=False)
    full = open_runtime("torch", tmp_path, threads=1).logits(IDS, [7])
    half = open_runtime("torch", tmp_path, threads=1, dtype="bfloat16").logits(IDS, [7])
    assert half.dtype == np.float32
    assert np.abs(full - half).max() < 0.1
