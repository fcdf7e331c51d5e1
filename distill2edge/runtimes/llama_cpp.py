"""Runs a GGUF through llama.cpp's low-level interface: token ids in, logits out, no tokenizer, no sampling, no BOS."""

from __future__ import annotations

import ctypes
import itertools
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.gguf_format.reader import check_gguf
from distill2edge.runtimes.base import check_request

_LOG: deque[str] = deque(maxlen=12)
_CACHE_TYPES = {"f16": 1, "f32": 0}
_callback: Any = None  # llama.cpp holds the pointer, so the object must live as long as the process


class LlamaCppRuntime:
    """One GGUF in llama.cpp.

    Args:
        path: a `.gguf` file, or a directory with `model.gguf`.
        threads: threads for decoding one token and for batches.
        device: `cpu`, or `cuda` with a build of llama-cpp-python that has it.
        context: positions that each sequence may hold; a longer prompt is refused.
        batch: tokens per `llama_decode`; longer prompts are fed in pieces.
        sequences: sequences that `logits_many` puts into one batch.
        use_mmap: map the file instead of reading it into memory.
        cache: `f16` (llama.cpp's default) or `f32`, the type of keys and values.

    Raises:
        UserError: no such file, or one that llama.cpp cannot load; the message has its last log lines.
        EnvironmentFault: llama-cpp-python or the device is missing, or there is no memory for the context.
    """

    name = "llama.cpp"

    def __init__(
        self,
        path: str | Path,
        *,
        threads: int = 1,
        device: str = "cpu",
        context: int = 2048,
        batch: int = 512,
        sequences: int = 1,
        use_mmap: bool = True,
        cache: str = "f16",
    ) -> None:
        self.path = model_file(Path(path))
        check_gguf(self.path)
        self._api = api = _library()
        self.context, self.batch, self.sequences = context, min(batch, context * sequences), sequences
        params = api.llama_model_default_params()
        params.n_gpu_layers = _gpu_layers(api, device)
        params.load_mode = api.LLAMA_LOAD_MODE_MMAP if use_mmap else api.LLAMA_LOAD_MODE_NONE
        _LOG.clear()
        self._model = api.llama_model_load_from_file(str(self.path).encode(), params)
        if not self._model:
            raise UserError(f"llama.cpp cannot load this file: {_last_words()}", where=str(self.path),
                            fix="export the model again, or download the file again")  # fmt: skip
        self._context = self._open_context(threads, device, _CACHE_TYPES[cache])
        self._memory = api.llama_get_memory(self._context)
        self._vocabulary = api.llama_model_get_vocab(self._model)
        self.vocab_size = int(api.llama_vocab_n_tokens(self._vocabulary))
        self._buffers = _Batch(api, self.batch, sequences)
        self._length = 0

    def logits(self, ids: Sequence[int], positions: Sequence[int]) -> np.ndarray:
        """Logits [len(positions), V] float32 from an empty cache; row i predicts token `positions[i] + 1`.

        Only the rows asked for are computed, and nothing after the last of them.
        """
        check_request(ids, positions, self.context)
        rows = np.empty((len(positions), self.vocab_size), dtype=np.float32)
        self._reset()
        if not len(positions):
            return rows
        wanted = np.zeros(max(positions) + 1, dtype=bool)
        wanted[list(positions)] = True
        tokens = self._tokens(ids)[: len(wanted)]
        at = np.empty(len(wanted), dtype=np.int64)
        at[wanted] = np.arange(int(wanted.sum()))
        unique = np.empty((int(wanted.sum()), self.vocab_size), dtype=np.float32)
        done = 0
        for start in range(0, len(tokens), self.batch):
            flags = wanted[start : start + self.batch]
            count = int(flags.sum())
            self._buffers.fill(0, 0, tokens[start : start + self.batch], start, flags)
            self._run(len(flags))
            if count:
                unique[done : done + count] = self._outputs(count)
                done += count
        self._length = len(tokens)
        np.take(unique, at[list(positions)], axis=0, out=rows)
        return rows

    def logits_many(self, requests: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[np.ndarray]:
        """`logits` for many short sequences, several per `llama_decode`.

        Args:
            requests: pairs (ids, positions); positions strictly ascending.

        Returns:
            for each request an array [len(positions), V] float32, in order.
        """
        found: list[np.ndarray] = []
        group: list[tuple[np.ndarray, np.ndarray]] = []
        held = 0
        for ids, positions in requests:
            check_request(ids, positions, self.context)
            if any(b <= a for a, b in itertools.pairwise(positions)):
                raise ValueError("positions must ascend strictly")
            flags = np.zeros(max(positions, default=0) + 1, dtype=bool)
            flags[list(positions)] = True
            tokens = self._tokens(ids)[: len(flags)]
            if group and (len(group) == self.sequences or held + len(tokens) > self.batch):
                found += self._run_group(group, held)
                group, held = [], 0
            if len(tokens) > self.batch:
                found.append(self.logits(ids, positions))
                continue
            group.append((tokens, flags))
            held += len(tokens)
        return found + (self._run_group(group, held) if group else [])

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Empty the cache, fill it with `ids`; logits [V] float32 of the next token."""
        check_request(ids, (), self.context)
        self._reset()
        tokens = self._tokens(ids)
        flags = np.zeros(len(tokens), dtype=bool)
        flags[-1] = True
        for start in range(0, len(tokens), self.batch):
            piece = tokens[start : start + self.batch]
            self._buffers.fill(0, 0, piece, start, flags[start : start + self.batch])
            self._run(len(piece))
        self._length = len(tokens)
        return self._outputs(1)[0].copy()

    def decode(self, token: int) -> np.ndarray:
        """Append one token; logits [V] float32 of the next one."""
        if self._length >= self.context:
            raise ValueError(f"the context of {self.context} tokens is full")
        if not 0 <= token < self.vocab_size:
            raise ValueError(f"token {token} is outside the vocabulary of {self.vocab_size}")
        self._buffers.fill_one(token, self._length)
        self._run(1)
        self._length += 1
        return self._outputs(1)[0].copy()

    def clear(self) -> None:
        """Forget every sequence."""
        self._reset()

    def step(self, feeds: Sequence[tuple[int, Sequence[int], int]]) -> np.ndarray:
        """One pass over tokens of several sequences, whose cached tokens stay.

        Args:
            feeds: (sequence, tokens, how many tokens the sequence holds already).

        Returns:
            [len(feeds), V] float32: the next token of each; a view that the next call overwrites.
        """
        at = 0
        for sequence, ids, start in feeds:
            flags = np.zeros(len(ids), dtype=bool)
            flags[-1] = True
            self._buffers.fill(at, sequence, self._tokens(ids), start, flags)
            at += len(ids)
        self._run(at)
        return self._outputs(len(feeds))

    def forget(self, sequence: int) -> None:
        """Free what the cache holds of one sequence."""
        self._api.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def close(self) -> None:
        """Free the context and the model. Closing twice does nothing."""
        if self._context:
            self._api.llama_free(self._context)
            self._context = None
        if self._model:
            self._api.llama_model_free(self._model)
            self._model = None

    # --- inside -------------------------------------------------------------------

    def _open_context(self, threads: int, device: str, cache_type: int) -> Any:
        params = self._api.llama_context_default_params()
        params.n_ctx = self.context * self.sequences
        params.n_batch = params.n_ubatch = self.batch
        params.n_seq_max = self.sequences
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = cache_type
        params.offload_kqv = params.op_offload = device != "cpu"
        params.no_perf = True
        # One cache for all sequences: short ones of different lengths then share a pass.
        params.kv_unified = True
        opened = self._api.llama_init_from_model(self._model, params)
        if not opened:
            words = _last_words()
            self._api.llama_model_free(self._model)
            self._model = None
            raise EnvironmentFault(f"llama.cpp cannot open a context of {self.context} tokens: {words}",
                                   where=str(self.path), fix="ask for a smaller context")  # fmt: skip
        return opened

    def _tokens(self, ids: Sequence[int]) -> np.ndarray:
        tokens = np.asarray(ids, dtype=np.int32)
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < self.vocab_size):
            raise ValueError(f"a token id is outside the vocabulary of {self.vocab_size}")
        return tokens

    def _reset(self) -> None:
        self._api.llama_memory_clear(self._memory, False)
        self._length = 0

    def _run(self, count: int) -> None:
        batch = self._buffers.struct
        batch.n_tokens = count
        status = self._api.llama_decode(self._context, batch)
        if status != 0:
            raise UserError(f"llama_decode returned {status}: {_last_words()}", where=str(self.path),
                            fix="ask for a larger context, or shorten the prompt")  # fmt: skip

    def _run_group(self, group: list[tuple[np.ndarray, np.ndarray]], held: int) -> list[np.ndarray]:
        self._reset()
        at = 0
        for sequence, (tokens, flags) in enumerate(group):
            self._buffers.fill(at, sequence, tokens, 0, flags)
            at += len(tokens)
        self._run(held)
        counts = [int(flags.sum()) for _, flags in group]
        block = self._outputs(sum(counts)).copy()
        return np.split(block, np.cumsum(counts)[:-1])

    def _outputs(self, count: int) -> np.ndarray:
        """The rows of the last `llama_decode`, [count, V]: a view that the next call overwrites."""
        pointer = self._api.llama_get_logits(self._context)
        address = ctypes.addressof(pointer.contents)
        raw = (ctypes.c_float * (count * self.vocab_size)).from_address(address)
        return np.frombuffer(raw, dtype=np.float32).reshape(count, self.vocab_size)


class _Batch:
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


def _library() -> Any:
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


def _last_words() -> str:
    return " | ".join(list(_LOG)[-6:]) or "it gave no reason"


def _gpu_layers(api: Any, device: str) -> int:
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
