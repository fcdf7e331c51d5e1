"""Runs a GGUF through llama.cpp's low-level interface: token ids in, logits out, no tokenizer, no sampling, no BOS."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill2edge.gguf import kv_cache
from distill2edge.models.kv_cache import PLAIN
from distill2edge.runtimes.llama_library import FLASH_ON, LlamaModel
from distill2edge.runtimes.protocol import check_request


class LlamaCppRuntime(LlamaModel):
    """One GGUF in llama.cpp.

    Args:
        path: a `.gguf` file, or a directory with `model.gguf`.
        threads: threads for decoding one token and for batches.
        device: `cpu`, or `cuda` with a build of llama-cpp-python that has it.
        context: positions that each sequence may hold; a longer prompt is refused.
        batch: tokens per `llama_decode`; longer prompts are fed in pieces.
        sequences: sequences that `logits_many` puts into one batch.
        use_mmap: map the file instead of reading it into memory.
        cache: the type of keys and values (`models.kv_cache`).

    Raises:
        UserError: no such file, or one that llama.cpp cannot load; the message has its last log lines.
        EnvironmentFault: llama-cpp-python or the device is missing, or there is no memory for the context.
    """

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
        cache: str = PLAIN,
    ) -> None:
        super().__init__(path, device, use_mmap=use_mmap)
        self.context, self.batch, self.sequences = context, min(batch, context * sequences), sequences
        params = self._api.llama_context_default_params()
        params.type_k = params.type_v = kv_cache.number(cache)
        if kv_cache.block(cache) > 1:  # values in blocks are read by flash attention alone
            params.flash_attn_type = FLASH_ON
        params.offload_kqv = params.op_offload = device != "cpu"
        # One cache for all sequences: short ones of different lengths then share a pass.
        params.kv_unified = True
        self._open_context(threads, context, params, self.batch, sequences)
        self._memory = self._api.llama_get_memory(self._context)
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

    # --- inside -------------------------------------------------------------------

    def _reset(self) -> None:
        self._api.llama_memory_clear(self._memory, False)
        self._length = 0

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
