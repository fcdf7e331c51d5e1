"""Runs a GGUF encoder-decoder (T5) in llama.cpp: the source through the encoder once, then the decoder step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill2edge.errors import UserError
from distill2edge.runtimes.llama_library import FLASH_OFF, LlamaModel
from distill2edge.runtimes.protocol import check_positions, check_request

_F32 = 0  # GGML_TYPE_F32, of keys and values: they are few


class LlamaCppSeq2Seq(LlamaModel):
    """One GGUF encoder-decoder, batch of one, no tokenizer, no sampling.

    Args:
        path: a `.gguf` file, or a directory with `model.gguf`.
        threads: threads of a pass.
        device: `cpu`, or `cuda` with a build of llama-cpp-python that has it.
        context: the most tokens of source and target together.

    Raises:
        UserError: no such file, or one that llama.cpp cannot load as an encoder-decoder.
        EnvironmentFault: llama-cpp-python or the device is missing, or there is no memory for the context.
    """

    needs_prompt = True

    def __init__(self, path: str | Path, *, threads: int = 1, device: str = "cpu", context: int = 2048) -> None:
        super().__init__(path, device)
        if not self._api.llama_model_has_encoder(self._model):
            self.close()
            raise UserError("this GGUF is no encoder-decoder", where=str(path), fix="export the model again")
        self._start = int(self._api.llama_model_decoder_start_token(self._model))
        self.context = context
        params = self._api.llama_context_default_params()
        params.flash_attn_type = FLASH_OFF  # its kernels take no position bias
        params.type_k = params.type_v = _F32
        # The encoder looks both ways, so a source goes through in one piece.
        self._open_context(threads, context, params, context)
        self._memory = self._api.llama_get_memory(self._context)
        self._source = self._target = 0

    def logits(self, ids: Sequence[int], positions: Sequence[int], *, prompt: int) -> np.ndarray:
        """Logits [len(positions), V] float32; `ids[:prompt]` is the source, and positions start at `prompt` - 1."""
        check_request(ids, positions, self.context)
        check_positions(positions, prompt)
        if not len(positions):
            return np.empty((0, self.vocab_size), dtype=np.float32)
        self._encode(ids[:prompt])
        last = max(positions) + 1
        rows = self._feed([self._start, *ids[prompt:last]])
        return rows[[position - prompt + 1 for position in positions]]

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Read the source `ids`; logits [V] float32 of the first target token."""
        check_request(ids, (), self.context)
        self._encode(ids)
        return self._feed([self._start])[-1]

    def decode(self, token: int) -> np.ndarray:
        """Logits [V] float32 after one more target token.

        Raises:
            RuntimeError: nothing was prefilled.
            ValueError: the context is full, or a token outside the vocabulary.
        """
        if not self._target:
            raise RuntimeError("decode before prefill")
        # The start token is no part of the request.
        if self._source + self._target - 1 >= self.context:
            raise ValueError(f"the context of {self.context} is full")
        return self._feed([token])[-1]

    # --- one step ---------------------------------------------------------------

    def _encode(self, source: Sequence[int]) -> None:
        self._api.llama_memory_clear(self._memory, False)
        self._source, self._target = len(source), 0
        self._fill(source, 0)
        self._run(len(source), "llama_encode")

    def _feed(self, target: Sequence[int]) -> np.ndarray:
        """Logits [len(target), V] after these tokens, which join the cache."""
        self._fill(target, self._target)
        self._run(len(target))
        self._target += len(target)
        pointer = self._api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(len(target), self.vocab_size)).astype(np.float32, copy=True)

    def _fill(self, ids: Sequence[int], start: int) -> None:
        self._buffers.fill(0, 0, self._tokens(ids), start, np.ones(len(ids), dtype=bool))
