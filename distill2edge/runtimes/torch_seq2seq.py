"""PyTorch: an encoder-decoder with its key-value cache. The source is read once, then the decoder runs step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill2edge.models.kinds import pair_inputs, start_token_id
from distill2edge.models.loading import load_to_run
from distill2edge.models.placement import WHOLE, Placement, device_of
from distill2edge.runtimes.protocol import check_positions, check_request
from distill2edge.runtimes.torch_runtime import DTYPES, check_torch_request


class TorchSeq2Seq:
    """An encoder-decoder in PyTorch: safetensors only, no remote code, no network.

    Args and errors: as `TorchRuntime`; `context` counts source and target together.
    """

    name = "torch"
    needs_prompt = True

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
        check_torch_request(Path(path), device, dtype)
        torch.set_num_threads(threads)
        self.context = context
        self._model = model = load_to_run(path, DTYPES[dtype], device, placement)
        self.device = device_of(model)
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self._encoded: Any = None
        self._cache: Any = None
        self._filled = 0

    @torch.inference_mode()
    def logits(self, ids: Sequence[int], positions: Sequence[int], *, prompt: int) -> np.ndarray:
        """Logits [len(positions), V]; `ids[:prompt]` is the source, and positions start at `prompt` - 1."""
        check_request(ids, positions, self.context)
        check_positions(positions, prompt)
        if not len(positions):
            return np.empty((0, self.vocab_size), dtype=np.float32)
        inputs = {name: value.to(self.device) for name, value in pair_inputs(self._model.config, ids, prompt).items()}
        out = self._model(**inputs, use_cache=False).logits[0]
        return self._numpy(out[[position - prompt + 1 for position in positions]])

    @torch.inference_mode()
    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Read the source `ids`; logits [V] of the first target token."""
        check_request(ids, (), self.context)
        source = torch.tensor([list(ids)], device=self.device)
        self._encoded = self._model.get_encoder()(input_ids=source, attention_mask=torch.ones_like(source))
        self._cache, self._filled = None, len(ids)
        return self._step(start_token_id(self._model.config))

    @torch.inference_mode()
    def decode(self, token: int) -> np.ndarray:
        """Logits [V] after one more target token.

        Raises:
            RuntimeError: nothing was prefilled.
            ValueError: the context is full.
        """
        if self._encoded is None:
            raise RuntimeError("decode before prefill")
        if self._filled >= self.context:
            raise ValueError(f"the context of {self.context} tokens is full")
        return self._step(token)

    def close(self) -> None:
        """Drop the weights and the cache."""
        self._model = self._cache = self._encoded = None

    def _step(self, token: int) -> np.ndarray:
        ids = torch.tensor([[token]], device=self.device)
        out = self._model(
            encoder_outputs=self._encoded, decoder_input_ids=ids, past_key_values=self._cache, use_cache=True
        )
        self._cache = out.past_key_values
        self._filled += 1
        return self._numpy(out.logits[0, -1])

    @staticmethod
    def _numpy(out: torch.Tensor) -> np.ndarray:
        return out.float().cpu().numpy()
