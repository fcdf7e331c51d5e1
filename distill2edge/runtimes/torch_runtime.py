"""PyTorch: a Hugging Face directory with its key-value cache. The reference the other runtimes are held to."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.models.checkpoint import load_checkpoint
from distill2edge.models.placement import WHOLE, Placement, device_of, to_device
from distill2edge.runtimes.protocol import check_request

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check_torch_request(path: Path, device: str, dtype: str) -> None:
    """Refuse what can't be loaded before anything is.

    Raises:
        UserError: not a model directory, or an unknown dtype.
        EnvironmentFault: `cuda` without a CUDA build or device.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}", fix=f"one of {', '.join(DTYPES)}")
    if not (path / "config.json").is_file():
        raise UserError("not a Hugging Face model directory", where=str(path), fix="it needs config.json")
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault(
            f"PyTorch {torch.__version__} finds no CUDA device",
            fix="install a CUDA build of PyTorch on a machine with an NVIDIA GPU, or use device cpu",
        )


class TorchRuntime:
    """A causal language model in PyTorch: safetensors only, no remote code, no network.

    Args:
        path: a Hugging Face directory.
        threads: intra-operator threads of the whole process.
        device: `cpu` or `cuda`.
        context: the most tokens of one sequence.
        dtype: of the weights and the arithmetic; logits come out as float32.
        placement: where the weights lie, in place of `device`.

    Raises:
        UserError: not a model directory, or an unknown dtype.
        EnvironmentFault: `cuda` without a CUDA build or device.
    """

    name = "torch"

    def __init__(
        self,
        path: Path | str,
        *,
        threads: int,
        device: str = "cpu",
        context: int = 2048,
        dtype: str = "float32",
        placement: Placement = WHOLE,
    ) -> None:
        path = Path(path)
        check_torch_request(path, device, dtype)
        torch.set_num_threads(threads)
        self.context = context
        model: Any = load_checkpoint(AutoModelForCausalLM, path, dtype=DTYPES[dtype], placement=placement)
        self._model = to_device(model, device, placement).eval()
        self.device = device_of(model)
        self._selects = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self._cache: Any = None
        self._filled = 0

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], positions: Sequence[int]) -> np.ndarray:
        """Logits [len(positions), V]; only the asked positions go through the output head."""
        check_request(ids, positions, self.context)
        if not len(positions):
            return np.empty((0, self.vocab_size), dtype=np.float32)
        keep = torch.tensor(list(positions), device=self.device)
        if self._selects:
            out = self._model(self._tensor(ids), logits_to_keep=keep, use_cache=False).logits[0]
        else:
            out = self._model(self._tensor(ids), use_cache=False).logits[0, keep]
        return self._numpy(out)

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [V] after `ids`, from an empty cache."""
        check_request(ids, (), self.context)
        self._cache, self._filled = None, 0
        return self._step(ids)

    @torch.inference_mode()
    def decode(self, token: int) -> np.ndarray:
        """Logits [V] after one more token.

        Raises:
            RuntimeError: nothing was prefilled.
            ValueError: the context is full.
        """
        if self._cache is None:
            raise RuntimeError("decode before prefill")
        if self._filled >= self.context:
            raise ValueError(f"the context of {self.context} tokens is full")
        return self._step([token])

    def close(self) -> None:
        """Drop the weights and the cache."""
        self._model = self._cache = None

    def _step(self, ids: Sequence[int]) -> np.ndarray:
        last = {"logits_to_keep": 1} if self._selects else {}
        out = self._model(self._tensor(ids), past_key_values=self._cache, use_cache=True, **last)
        self._cache = out.past_key_values
        self._filled += len(ids)
        return self._numpy(out.logits[0, -1])

    def _tensor(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], dtype=torch.long, device=self.device)

    @staticmethod
    def _numpy(out: torch.Tensor) -> np.ndarray:
        return out.float().cpu().numpy()
