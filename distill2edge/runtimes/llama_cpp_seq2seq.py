"""Runs a GGUF encoder-decoder (T5) in llama.cpp: the source through the encoder once, then the decoder step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.gguf_format.reader import read_gguf
from distill2edge.runtimes.base import check_positions, check_request
from distill2edge.runtimes.llama_cpp import _Batch, _gpu_layers, _last_words, _library, model_file

_FLASH_OFF = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED: its kernels take no position bias
_F32 = 0  # GGML_TYPE_F32, of keys and values: they are few


def is_seq2seq_file(path: str | Path) -> bool:
    """Whether a GGUF is an encoder-decoder."""
    return read_gguf(model_file(Path(path))).architecture == "t5"


class LlamaCppSeq2Seq:
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

    name = "llama.cpp"
    needs_prompt = True

    def __init__(self, path: str | Path, *, threads: int = 1, device: str = "cpu", context: int = 2048) -> None:
        self.path = model_file(Path(path))
        self._model = self._context = None
        self._api = api = _library()
        params = api.llama_model_default_params()
        params.n_gpu_layers = _gpu_layers(api, device)
        self._model = api.llama_model_load_from_file(str(self.path).encode(), params)
        if not self._model or not api.llama_model_has_encoder(self._model):
            raise UserError(f"llama.cpp cannot load this file as an encoder-decoder: {_last_words()}",
                            where=str(self.path), fix="export the model again")  # fmt: skip
        self.vocab_size = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model)))
        self._start = int(api.llama_model_decoder_start_token(self._model))
        self.context = context
        self._context = self._open_context(threads)
        self._memory = api.llama_get_memory(self._context)
        self._buffers = _Batch(api, context, 1)
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

    def close(self) -> None:
        """Free the context and the model. Closing twice does nothing."""
        if self._context:
            self._api.llama_free(self._context)
            self._context = None
        if self._model:
            self._api.llama_model_free(self._model)
            self._model = None

    # --- one step ---------------------------------------------------------------

    def _encode(self, source: Sequence[int]) -> None:
        self._api.llama_memory_clear(self._memory, False)
        self._source, self._target = len(source), 0
        self._run(self._api.llama_encode, source, 0)

    def _feed(self, target: Sequence[int]) -> np.ndarray:
        """Logits [len(target), V] after these tokens, which join the cache."""
        self._run(self._api.llama_decode, target, self._target)
        self._target += len(target)
        pointer = self._api.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(len(target), self.vocab_size)).astype(np.float32, copy=True)

    def _run(self, step: Any, ids: Sequence[int], start: int) -> None:
        tokens = np.asarray(ids, dtype=np.int32)
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise ValueError(f"a token id is outside the vocabulary of {self.vocab_size}")
        self._buffers.fill(0, 0, tokens, start, np.ones(len(tokens), dtype=bool))
        batch = self._buffers.struct
        batch.n_tokens = len(tokens)
        status = step(self._context, batch)
        if status != 0:
            raise UserError(f"llama.cpp returned {status}: {_last_words()}", where=str(self.path),
                            fix="shorten the text, or ask for a larger context")  # fmt: skip

    def _open_context(self, threads: int) -> Any:
        api = self._api
        params = api.llama_context_default_params()
        # The encoder looks both ways, so a source goes through in one piece.
        params.n_ctx = params.n_batch = params.n_ubatch = self.context
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = _FLASH_OFF
        params.type_k = params.type_v = _F32
        params.no_perf = True
        opened = api.llama_init_from_model(self._model, params)
        if not opened:
            words = _last_words()
            self.close()
            raise EnvironmentFault(f"llama.cpp cannot open a context of {self.context} tokens: {words}",
                                   where=str(self.path), fix="ask for a smaller context")  # fmt: skip
        return opened
