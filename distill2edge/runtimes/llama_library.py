"""llama.cpp's low-level interface as every runtime of a GGUF uses it: the library, one open model, its batches."""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.gguf.complete import check_present
from distill2edge.gguf.reader import check_gguf

_LOG: deque[str] = deque(maxlen=12)
_callback: Any = None  # llama.cpp holds the pointer, so the object must live as long as the process
_NO_DEVICES = (ctypes.c_void_p * 1)()  # a list that ends with its first entry
FLASH_OFF, FLASH_ON = 0, 1
"""LLAMA_FLASH_ATTN_TYPE_DISABLED and _ENABLED."""


class LlamaModel:
    """One GGUF that is loaded, and its context once `open_context` was called.

    Args:
        path: a `.gguf` file, or a directory with `model.gguf`.
        device: `cpu`, or `cuda` with a build of llama-cpp-python that has it.
        use_mmap: map the file instead of reading it into memory.

    Raises:
        UserError: no such file, or one that llama.cpp cannot load; the message has its last log lines.
        EnvironmentFault: llama-cpp-python or the device is missing.
    """

    name = "llama.cpp"

    def __init__(self, path: str | Path, device: str, *, use_mmap: bool = True) -> None:
        self.path = model_file(Path(path))
        check_present(check_gguf(self.path))
        self._model = self._context = None
        self._api = api = library()
        params = api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers(api, device)
        if device == "cpu":
            # A build for GPUs would compute long prompts there, even with no layer of the model on one.
            params.devices = ctypes.cast(_NO_DEVICES, ctypes.c_void_p)
        params.load_mode = api.LLAMA_LOAD_MODE_MMAP if use_mmap else api.LLAMA_LOAD_MODE_NONE
        _LOG.clear()
        self._model = api.llama_model_load_from_file(str(self.path).encode(), params)
        if not self._model:
            raise UserError(f"llama.cpp cannot load this file: {last_words()}", where=str(self.path),
                            fix="export the model again, or download the file again")  # fmt: skip
        self._vocabulary = api.llama_model_get_vocab(self._model)
        self.vocab_size = int(api.llama_vocab_n_tokens(self._vocabulary))

    def _open_context(self, threads: int, length: int, params: Any, batch: int, sequences: int = 1) -> None:
        """Open the context and its batch.

        Args:
            length: positions of each sequence, for the error.
            params: of `llama_context_default_params`, with what is special about it.
            batch: tokens of a pass.
        """
        params.n_ctx = length * sequences
        params.n_batch = params.n_ubatch = batch
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._context = self._api.llama_init_from_model(self._model, params)
        if not self._context:
            words = last_words()
            self.close()
            raise EnvironmentFault(f"llama.cpp cannot open a context of {length} tokens: {words}",
                                   where=str(self.path), fix="ask for a smaller context")  # fmt: skip
        self._buffers = Batch(self._api, batch, sequences)

    def _tokens(self, ids: Sequence[int]) -> np.ndarray:
        tokens = np.asarray(ids, dtype=np.int32)
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < self.vocab_size):
            raise ValueError(f"a token id is outside the vocabulary of {self.vocab_size}")
        return tokens

    def _run(self, count: int, step: str = "llama_decode") -> None:
        """One pass over the first `count` tokens of the batch."""
        batch = self._buffers.struct
        batch.n_tokens = count
        status = getattr(self._api, step)(self._context, batch)
        if status != 0:
            raise UserError(f"{step} returned {status}: {last_words()}", where=str(self.path),
                            fix="ask for a larger context, or shorten the prompt")  # fmt: skip

    def close(self) -> None:
        """Free the context and the model. Closing twice does nothing."""
        if self._context:
            self._api.llama_free(self._context)
            self._context = None
        if self._model:
            self._api.llama_model_free(self._model)
            self._model = None


class Batch:
    """A reusable `llama_batch` over numpy arrays."""

    def __init__(self, api: Any, size: int, sequences: int) -> None:
        self.token = np.zeros(size, dtype=np.int32)
        self.position = np.zeros(size, dtype=np.int32)
        self.count = np.ones(size, dtype=np.int32)
        self.flag = np.zeros(size, dtype=np.int8)
        self._ids = np.arange(sequences, dtype=np.int32)
        # seq_id is an array of pointers, each to the one id of that token's sequence.
        self._pointers = np.full(size, self._ids.ctypes.data, dtype=np.uintp)
        self.struct = api.llama_batch(
            n_tokens=0,
            token=_pointer(self.token, ctypes.c_int32),
            embd=None,
            pos=_pointer(self.position, ctypes.c_int32),
            n_seq_id=_pointer(self.count, ctypes.c_int32),
            seq_id=ctypes.cast(self._pointers.ctypes.data, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=_pointer(self.flag, ctypes.c_int8),
        )

    def fill(self, at: int, sequence: int, tokens: np.ndarray, start: int, flags: np.ndarray) -> None:
        """Put one sequence's tokens at batch index `at`; the first has position `start` in its sequence."""
        end = at + len(tokens)
        self.token[at:end] = tokens
        self.position[at:end] = np.arange(start, start + len(tokens), dtype=np.int32)
        self.flag[at:end] = flags
        self._pointers[at:end] = self._ids.ctypes.data + sequence * self._ids.itemsize

    def fill_one(self, token: int, position: int) -> None:
        """Put a single token of sequence 0 whose logits are wanted."""
        self.token[0] = token
        self.position[0] = position
        self.flag[0] = 1
        self._pointers[0] = self._ids.ctypes.data


def model_file(path: Path) -> Path:
    """The `.gguf` of an export directory, or the file itself.

    Raises:
        UserError: it does not exist.
    """
    file = path / "model.gguf" if path.is_dir() else path
    if not file.is_file():
        raise UserError("no such GGUF file", where=str(file), fix="give the directory that holds model.gguf")
    return file


def _pointer(array: np.ndarray, kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))


def library() -> Any:
    """llama_cpp with its log going to the last-words buffer.

    Raises:
        EnvironmentFault: it is not installed, or its shared library does not load.
    """
    global _callback
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise EnvironmentFault(f"llama-cpp-python cannot be loaded: {error}",
                               fix="pip install llama-cpp-python") from error  # fmt: skip
    if _callback is None:
        _callback = llama_cpp.llama_log_callback(_keep)
        llama_cpp.llama_backend_init()
    llama_cpp.llama_log_set(_callback, ctypes.c_void_p(0))
    return llama_cpp


def _keep(level: int, text: bytes, data: Any) -> None:
    line = text.decode("utf-8", "replace").strip()
    if line and line.strip("."):
        _LOG.append(line)


def last_words() -> str:
    return " | ".join(list(_LOG)[-6:]) or "it gave no reason"


def gpu_layers(api: Any, device: str) -> int:
    """Layers that a device (`cpu`, `cuda`) computes: none, or -1 for all.

    Raises:
        UserError: another device.
        EnvironmentFault: this llama-cpp-python was built without it.
    """
    if device == "cpu":
        return 0
    if device != "cuda":
        raise UserError(f"unknown device {device!r} for llama.cpp", fix="cpu or cuda")
    if not api.llama_supports_gpu_offload():
        raise EnvironmentFault(
            "this llama-cpp-python was built for the CPU only",
            fix='CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir llama-cpp-python',
        )
    return -1
