"""Runs an exported encoder-decoder in ONNX Runtime: the encoder once, the decoder step by step."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.runtimes.onnx_runtime import open_session
from distill2edge.runtimes.protocol import check_positions, check_request

START = "distill2edge.decoder_start_token_id"
"""Metadata of the decoder graph: the token that every target begins after."""

_PAST = re.compile(r"^past_key_values\.(\d+)\.(encoder|decoder)\.(key|value)$")
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxSeq2Seq:
    """`encoder.onnx` and `decoder.onnx` of one directory, batch of one, no tokenizer, no sampling.

    The encoder gives the keys and values of every cross-attention; the decoder takes them, its own past and the next
    target tokens.

    Args:
        path: the directory.
        threads: threads inside one operator.
        context: the most tokens of source and target together.
        device: `cpu`, or `cuda` with an onnxruntime that has that provider.

    Raises:
        UserError: graphs that are missing, broken or of another kind, or that name no start token.
        EnvironmentFault: onnxruntime is not installed, or it lacks the device or an operator of the graphs.
    """

    name = "onnxruntime"
    needs_prompt = True

    def __init__(self, path: str | Path, *, threads: int = 1, context: int = 2048, device: str = "cpu") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EnvironmentFault("onnxruntime is not installed", fix="pip install onnxruntime") from error
        self._ort, self.path, self.context, self._device = onnxruntime, Path(path), context, device
        files = [self.path / f"{name}.onnx" for name in ("encoder", "decoder")]
        for file in files:
            if not file.is_file():
                raise UserError("no such ONNX file", where=str(file), fix="give a directory with both graphs")
        self._encoder, self._decoder = (open_session(file, threads=threads, device=device) for file in files)
        self._inputs = {item.name: item for item in self._decoder.get_inputs()}
        self._outputs = [item.name for item in self._decoder.get_outputs()]
        self._own = [name for name in self._inputs if (found := _PAST.match(name)) and found[2] == "decoder"]
        self._cross = [item.name for item in self._encoder.get_outputs()]
        self._check(files[1])
        self.vocab_size = int(self._decoder.get_outputs()[self._outputs.index("logits")].shape[-1])
        self._start = int(self._decoder.get_modelmeta().custom_metadata_map[START])
        self._read: dict[str, Any] = {}
        self._past: dict[str, Any] = {}
        self._filled = 0

    def logits(self, ids: Sequence[int], positions: Sequence[int], *, prompt: int) -> np.ndarray:
        """Logits [len(positions), V] float32; `ids[:prompt]` is the source, and positions start at `prompt` - 1."""
        check_request(ids, positions, self.context)
        check_positions(positions, prompt)
        if not len(positions):
            return np.empty((0, self.vocab_size), dtype=np.float32)
        self._encode(ids[:prompt])
        rows = self._feed([self._start, *ids[prompt:]])
        return rows[[position - prompt + 1 for position in positions]]

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Read the source `ids`; logits [V] float32 of the first target token."""
        check_request(ids, (), self.context)
        self._encode(ids)
        self._filled = len(ids)
        return self._feed([self._start])[-1]

    def decode(self, token: int) -> np.ndarray:
        """Logits [V] float32 after one more target token.

        Raises:
            RuntimeError: nothing was prefilled.
            ValueError: the context is full, or a token outside the vocabulary.
        """
        if not self._read:
            raise RuntimeError("decode before prefill")
        if self._filled >= self.context:
            raise ValueError(f"the context of {self.context} is full")
        self._filled += 1
        return self._feed([token])[-1]

    def close(self) -> None:
        """Let the sessions and the cache go."""
        self._read, self._past = {}, {}
        self._encoder = self._decoder = None

    # --- one step ---------------------------------------------------------------

    def _encode(self, source: Sequence[int]) -> None:
        tokens = self._tokens(source)
        mask = np.ones_like(tokens)
        values = self._run(self._encoder, {"input_ids": tokens, "attention_mask": mask}, self._cross)
        self._read = {name.replace("present", "past_key_values"): each for name, each in zip(self._cross, values)}  # noqa: B905 - OrtValueVector has no len
        self._read["encoder_attention_mask"] = self._value(mask)
        self._past = {name: self._value(self._empty(name)) for name in self._own}

    def _feed(self, target: Sequence[int]) -> np.ndarray:
        """Logits [len(target), V] after these tokens, which join the cache."""
        tokens = self._tokens(target)
        values = self._run(self._decoder, {"decoder_input_ids": tokens}, self._outputs, self._read | self._past)
        named = dict(zip(self._outputs, values))  # noqa: B905
        for name in self._own:
            self._past[name] = named[name.replace("past_key_values", "present")]
        rows: np.ndarray = named["logits"].numpy()[0]
        return np.asarray(rows, dtype=np.float32)

    def _run(
        self, session: Any, feed: dict[str, np.ndarray], outputs: Sequence[str], kept: dict[str, Any] | None = None
    ) -> Any:
        binding = session.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        for name, value in (kept or {}).items():
            if name in self._inputs:
                binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, "cpu" if name == "logits" else self._device)
        try:
            session.run_with_iobinding(binding)
        except Exception as error:
            # onnxruntime's exceptions share no public base class
            raise UserError(
                f"onnxruntime stopped in a step: {str(error).splitlines()[0]}",
                where=str(self.path),
                fix="export the model again",
            ) from error
        return binding.get_outputs()

    def _tokens(self, ids: Sequence[int]) -> np.ndarray:
        tokens = np.asarray(ids, dtype=np.int64)[None]
        # a quantized table is read at whatever row it is told, checked by nobody
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise ValueError(f"token ids must be in 0..{self.vocab_size - 1}, got {tokens.min()}..{tokens.max()}")
        return tokens

    def _value(self, array: np.ndarray) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(array, self._device, 0)

    def _empty(self, name: str) -> np.ndarray:
        item = self._inputs[name]
        return np.zeros((1, item.shape[1], 0, item.shape[3]), dtype=_DTYPES[item.type])

    def _check(self, file: Path) -> None:
        wanted = {name.replace("past_key_values", "present") for name in self._own}
        read = {name.replace("present", "past_key_values") for name in self._cross}
        known = read | set(self._own) | {"decoder_input_ids", "encoder_attention_mask"}
        if not self._own or not {"logits", *wanted} <= set(self._outputs) or not set(self._inputs) <= known:
            raise UserError(
                "not the decoder of an encoder-decoder with a cache",
                where=str(file),
                fix="give a directory that `distill2edge export` wrote for a sequence-to-sequence model",
            )
        if START not in self._decoder.get_modelmeta().custom_metadata_map:
            raise UserError(f"the graph's metadata lacks {START}", where=str(file), fix="export the model again")
