"""Runs a GGUF encoder with a classification head in llama.cpp: token ids in, class logits out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.gguf_format.reader import read_gguf
from distill2edge.runtimes.base import check_request
from distill2edge.runtimes.llama_cpp import _Batch, _gpu_layers, _last_words, _library, model_file

_FLASH_OFF = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED: its CPU path rounds keys and values to 16 bits


def output_labels(path: str | Path) -> list[str]:
    """Names of the classes in a GGUF's metadata; empty for a file that is no classifier."""
    file = read_gguf(model_file(Path(path)))
    return [str(label) for label in file.get(f"{file.architecture}.classifier.output_labels", [])]


class LlamaCppClassifier:
    """One GGUF classifier (`bert` with pooling type rank).

    Args:
        path: a `.gguf` file, or a directory with `model.gguf`.
        threads: threads of a pass.
        device: `cpu`, or `cuda` with a build of llama-cpp-python that has it.
        context: the most tokens of one text; at most what the model was trained with.

    Attributes:
        labels: names of the classes, in the order of the logits.

    Raises:
        UserError: no such file, one that llama.cpp cannot load, or one without a classification head.
        EnvironmentFault: llama-cpp-python or the device is missing, or there is no memory for the context.
    """

    name = "llama.cpp"

    def __init__(self, path: str | Path, *, threads: int = 1, device: str = "cpu", context: int = 512) -> None:
        self.path = model_file(Path(path))
        self.labels = output_labels(self.path)
        if not self.labels:
            raise UserError("this GGUF has no classification head", where=str(self.path),
                            fix="export a sequence classifier, or run it as a language model")  # fmt: skip
        self._model = self._context = None
        self._api = api = _library()
        params = api.llama_model_default_params()
        params.n_gpu_layers = _gpu_layers(api, device)
        self._model = api.llama_model_load_from_file(str(self.path).encode(), params)
        if not self._model:
            raise UserError(f"llama.cpp cannot load this file: {_last_words()}", where=str(self.path),
                            fix="export the model again, or download the file again")  # fmt: skip
        self.vocab_size = int(api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model)))
        self.context = min(context, int(api.llama_model_n_ctx_train(self._model)))
        self._context = self._open_context(threads)
        self._buffers = _Batch(api, self.context, 1)

    def classify(self, ids: Sequence[int]) -> np.ndarray:
        """Class logits [C] float32 of one text; `ids` hold the special tokens ([CLS] ... [SEP])."""
        check_request(ids, (), self.context)
        tokens = np.asarray(ids, dtype=np.int32)
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise ValueError(f"a token id is outside the vocabulary of {self.vocab_size}")
        self._buffers.fill(0, 0, tokens, 0, np.ones(len(tokens), dtype=bool))
        batch = self._buffers.struct
        batch.n_tokens = len(tokens)
        status = self._api.llama_encode(self._context, batch)
        if status != 0:
            raise UserError(f"llama_encode returned {status}: {_last_words()}", where=str(self.path),
                            fix="shorten the text, or ask for a larger context")  # fmt: skip
        pointer = self._api.llama_get_embeddings_seq(self._context, 0)
        return np.ctypeslib.as_array(pointer, shape=(len(self.labels),)).astype(np.float32, copy=True)

    def logits(self, ids: Sequence[int], positions: Sequence[int]) -> NoReturn:
        """A classifier predicts no tokens."""
        raise _no_tokens(self.path)

    def prefill(self, ids: Sequence[int]) -> NoReturn:
        """A classifier predicts no tokens."""
        raise _no_tokens(self.path)

    def decode(self, token: int) -> NoReturn:
        """A classifier predicts no tokens."""
        raise _no_tokens(self.path)

    def close(self) -> None:
        """Free the context and the model. Closing twice does nothing."""
        if self._context:
            self._api.llama_free(self._context)
            self._context = None
        if self._model:
            self._api.llama_model_free(self._model)
            self._model = None

    def _open_context(self, threads: int) -> Any:
        api = self._api
        params = api.llama_context_default_params()
        # An encoder looks both ways, so a text goes through in one piece.
        params.n_ctx = params.n_batch = params.n_ubatch = self.context
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = True
        params.pooling_type = api.LLAMA_POOLING_TYPE_RANK
        params.flash_attn_type = _FLASH_OFF
        params.no_perf = True
        opened = api.llama_init_from_model(self._model, params)
        if not opened:
            words = _last_words()
            self.close()
            raise EnvironmentFault(f"llama.cpp cannot open a context of {self.context} tokens: {words}",
                                   where=str(self.path), fix="ask for a smaller context")  # fmt: skip
        return opened


def _no_tokens(path: Path) -> UserError:
    return UserError("this GGUF is a classifier: it predicts no tokens", where=str(path), fix="call classify")
