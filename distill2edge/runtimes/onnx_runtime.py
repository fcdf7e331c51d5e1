"""Runs one ONNX decoder with a key-value cache in plain ONNX Runtime: batch of one, no tokenizer, no sampling."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.runtimes.protocol import check_request

_PAST = re.compile(r"^past_key_values\.(\d+)\.(key|value)$")
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_CHUNK = 256  # tokens per call when logits of many positions are wanted: bounds the [tokens, vocabulary] buffer


class OnnxRuntime:
    """A decoder graph with inputs `input_ids`, `attention_mask`, optionally `position_ids`, and
    `past_key_values.N.key|value`, and outputs `logits` and `present.N.key|value`.

    Where every cache input is read by a GroupQueryAttention node, past and present share one buffer of
    `context` positions, so that a step writes one row per head and copies nothing. Other graphs get each step's
    present bound as the next step's past.

    Args:
        path: directory with `model.onnx`, or the file itself.
        threads: threads inside one operator. The operators run one after another.
        context: positions that the cache holds: prompt and response together.
        device: `cpu`, or `cuda` with an onnxruntime that has that provider.

    Raises:
        UserError: no such file, a file that is not a decoder with a cache, or one that is broken; in use, more tokens
            than the file has positions.
        EnvironmentFault: onnxruntime is not installed, or it lacks the device or an operator of the graph.
    """

    name = "onnxruntime"

    def __init__(self, path: str | Path, *, threads: int = 1, context: int = 2048, device: str = "cpu") -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EnvironmentFault("onnxruntime is not installed", fix="pip install onnxruntime") from error
        self._ort = onnxruntime
        self.path = model_file(Path(path))
        self.context = context
        self._device = device
        self._session = open_session(self.path, threads=threads, device=device)
        self._inputs = {item.name: item for item in self._session.get_inputs()}
        self._outputs = {item.name: item for item in self._session.get_outputs()}
        self._check_signature()
        self.vocab_size = self._vocabulary()
        graph = _graph(self.path)
        self.shared_cache = reads_cache_in_place(graph, self._past_names)
        self.window = positions_of(graph)
        self._logits_dtype = _DTYPES[self._outputs["logits"].type]
        self._mask = np.ones((1, context), dtype=np.int64)
        self._positions = np.arange(context, dtype=np.int64)[None]
        self._token = np.zeros((1, 1), dtype=np.int64)
        self._step_logits = np.zeros((1, 1, self.vocab_size), dtype=self._logits_dtype)
        self._buffers = self._allocate() if self.shared_cache else {}
        self._cache: dict[str, Any] = {}
        self._length = 0
        self._binding = self._session.io_binding()
        self._reset()

    # --- the protocol -----------------------------------------------------------

    def logits(self, ids: Sequence[int], positions: Sequence[int]) -> np.ndarray:
        """Logits [len(positions), V] float32, from an empty cache; row i predicts token positions[i] + 1."""
        check_request(ids, positions, self.context)
        self._reset()
        wanted = np.asarray(positions, dtype=np.int64)
        rows = np.empty((len(wanted), self.vocab_size), dtype=np.float32)
        for start in range(0, len(ids), _CHUNK):
            chunk = self._forward(ids[start : start + _CHUNK])
            here = (wanted >= start) & (wanted < start + chunk.shape[0])
            rows[here] = chunk[wanted[here] - start]
        return rows

    def logits_after(self, past: Sequence[tuple[np.ndarray, np.ndarray]], ids: Sequence[int]) -> np.ndarray:
        """Logits [len(ids), V] float32 of tokens after a cache from outside: keys and values [1, heads, P, width] per
        layer. The runtime's own cache is left as it was."""
        tokens, length = np.asarray(ids, dtype=np.int64)[None], past[0][0].shape[2]
        feed = {"input_ids": tokens, "attention_mask": np.ones((1, length + len(ids)), dtype=np.int64),
                "position_ids": np.arange(length, length + len(ids), dtype=np.int64)[None]}  # fmt: skip
        for name in self._past_names:
            layer, part = _PAST.match(name).groups()  # type: ignore[union-attr]
            feed[name] = past[int(layer)][part == "value"].astype(_DTYPES[self._inputs[name].type], copy=False)
        try:
            logits = self._session.run(["logits"], {name: feed[name] for name in self._inputs})[0]
        except Exception as error:
            raise self._stopped(error) from error
        return np.asarray(logits[0], dtype=np.float32)

    def prefill(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [V] float32 after the prompt; empties the cache first, then fills it."""
        check_request(ids, (), self.context)
        self._reset()
        last: np.ndarray = np.empty(0)
        for start in range(0, len(ids), _CHUNK):
            last = self._forward(ids[start : start + _CHUNK])[-1]
        return np.asarray(last, dtype=np.float32)

    def decode(self, token: int) -> np.ndarray:
        """Logits [V] float32 after one more token."""
        if self._length >= self.context:
            raise ValueError(f"the context of {self.context} is full")
        self._token[0, 0] = token
        self._run(self._token, self._step_logits)
        return np.array(self._step_logits[0, 0], dtype=np.float32)

    def close(self) -> None:
        """Let the session and the cache go."""
        self._cache, self._buffers = {}, {}
        self._binding = self._session = None

    # --- one step ---------------------------------------------------------------

    def _forward(self, ids: Sequence[int]) -> np.ndarray:
        tokens = np.asarray(ids, dtype=np.int64)[None]
        out = np.empty((1, tokens.shape[1], self.vocab_size), dtype=self._logits_dtype)
        self._run(tokens, out)
        row: np.ndarray = out[0]
        return row

    def _run(self, tokens: np.ndarray, out: np.ndarray) -> None:
        """Feed tokens [1, S] after what the cache holds; write logits [1, S, V] into `out`.

        Raises:
            ValueError: a token id outside the vocabulary.
        """
        # a quantized table is read at whatever row it is told, checked by nobody
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise ValueError(f"token ids must be in 0..{self.vocab_size - 1}, got {tokens.min()}..{tokens.max()}")
        binding, past, total = self._binding, self._length, self._length + tokens.shape[1]
        if self.window is not None and total > self.window:
            raise UserError(f"{total} tokens, but the file's positions end at {self.window}", where=str(self.path),
                            fix="give it shorter texts (data.max_length), or use another format")  # fmt: skip
        binding.bind_cpu_input("input_ids", tokens)
        if "attention_mask" in self._inputs:
            binding.bind_cpu_input("attention_mask", self._mask[:, :total])
        if "position_ids" in self._inputs:
            binding.bind_cpu_input("position_ids", self._positions[:, past:total])
        binding.bind_output("logits", "cpu", 0, self._logits_dtype, out.shape, out.ctypes.data)
        if not self.shared_cache:
            for past_name, present_name in self._pairs:
                binding.bind_ortvalue_input(past_name, self._cache[past_name])
                binding.bind_output(present_name, self._device)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:
            raise self._stopped(error) from error
        self._length = total
        if not self.shared_cache:
            values = dict(zip(self._bound, binding.get_outputs(), strict=True))
            self._cache = {past_name: values[present_name] for past_name, present_name in self._pairs}

    def _stopped(self, error: Exception) -> UserError:
        """Of any exception: onnxruntime's share no public base class."""
        return UserError(f"onnxruntime stopped in a step: {_first_line(error)}", where=str(self.path),
                         fix="export the model again")  # fmt: skip

    def _reset(self) -> None:
        self._length = 0
        if self.shared_cache:
            for past_name, present_name in self._pairs:
                self._binding.bind_ortvalue_input(past_name, self._buffers[past_name])
                self._binding.bind_ortvalue_output(present_name, self._buffers[past_name])
        else:
            self._cache = {name: self._ortvalue(name, 0) for name in self._past_names}
        self._bound = ["logits", *(present for _, present in self._pairs)]

    # --- set-up -----------------------------------------------------------------

    def _check_signature(self) -> None:
        self._past_names = [name for name in self._inputs if _PAST.match(name)]
        self._pairs = [(name, name.replace("past_key_values", "present")) for name in self._past_names]
        missing = [name for name in ("input_ids",) if name not in self._inputs]
        missing += [name for name in ("logits", *(present for _, present in self._pairs)) if name not in self._outputs]
        known = {"input_ids", "attention_mask", "position_ids", *self._past_names}
        extra = [name for name in self._inputs if name not in known]
        if missing or extra or not self._past_names:
            problem = f"lacks {', '.join(missing)}" if missing else f"also wants {', '.join(extra)}"
            if not missing and not extra:
                problem = "has no past_key_values inputs"
            raise UserError(
                f"not a decoder with a key-value cache: it {problem}",
                where=str(self.path),
                fix="give a file that `distill2edge export` wrote for a causal language model",
            )
        for item in (self._outputs["logits"], *(self._inputs[name] for name in self._past_names)):
            if item.type not in _DTYPES:
                raise UserError(f"{item.name} has type {item.type}: float or float16 is read", where=str(self.path))

    def _vocabulary(self) -> int:
        size = self._outputs["logits"].shape[-1]
        if not isinstance(size, int):
            raise UserError(
                "the last dimension of logits (the vocabulary) is not fixed in the graph", where=str(self.path)
            )
        return size

    def _ortvalue(self, name: str, length: int) -> Any:
        item = self._inputs[name]
        heads, width = item.shape[1], self._head_width(name)
        zeros = np.zeros((1, heads, length, width), dtype=_DTYPES[item.type])
        return self._ort.OrtValue.ortvalue_from_numpy(zeros, self._device, 0)

    def _head_width(self, name: str) -> int:
        """The head size; a graph may leave it symbolic on one side, so look at both."""
        present = self._outputs[name.replace("past_key_values", "present")]
        for shape in (self._inputs[name].shape, present.shape):
            if isinstance(shape[-1], int):
                return int(shape[-1])
        return _head_size(self.path)

    def _allocate(self) -> dict[str, Any]:
        return {name: self._ortvalue(name, self.context) for name in self._past_names}


def model_file(path: Path) -> Path:
    """The `.onnx` file of an export directory, or the file itself.

    Raises:
        UserError: it does not exist.
    """
    file = path / "model.onnx" if path.is_dir() else path
    if not file.is_file():
        raise UserError("no such ONNX file", where=str(file), fix="give the directory that holds model.onnx")
    return file


def providers_of(device: str) -> list[str]:
    """The execution providers that a device (`cpu`, `cuda`) stands for.

    Raises:
        UserError: another device.
        EnvironmentFault: this onnxruntime was built without it.
    """
    import onnxruntime

    known = {"cpu": ["CPUExecutionProvider"], "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"]}
    if device not in known:
        raise UserError(f"unknown device {device!r} for onnxruntime", fix="cpu or cuda")
    if known[device][0] not in onnxruntime.get_available_providers():
        raise EnvironmentFault(f"this onnxruntime has no {known[device][0]}", fix="pip install onnxruntime-gpu")
    return known[device]


def open_session(file: Path, *, threads: int, device: str = "cpu") -> Any:
    """An onnxruntime.InferenceSession whose threads stop spinning as soon as a run ends.

    Raises:
        UserError: the file is broken.
        EnvironmentFault: this onnxruntime lacks the device or an operator of the graph.
    """
    import onnxruntime

    providers = providers_of(device)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what is wrong comes as an exception
    # idle workers otherwise burn a core between two calls, on the account of whoever runs next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:
        # onnxruntime's exceptions share no public base class
        text = _first_line(error)
        if "NOT_IMPLEMENTED" in text or "is not a registered function/op" in text:
            raise EnvironmentFault(
                f"onnxruntime {onnxruntime.__version__} cannot run this graph: {text}",
                where=str(file),
                fix="upgrade onnxruntime",
            ) from error
        raise UserError(f"onnxruntime cannot load it: {text}", where=str(file), fix="export the model again") from error


def positions_of(graph: Any) -> int | None:
    """How many positions the graph's rotary tables have; None: it has none."""
    return min((each.dims[0] for each in graph.initializer if each.name.startswith("cos_cache")), default=None)


def reads_cache_in_place(graph: Any, past_names: Sequence[str]) -> bool:
    """Whether each cache input goes to GroupQueryAttention and nowhere else: only that operator may write
    present into the buffer it reads past from."""
    users: dict[str, list[str]] = {name: [] for name in past_names}
    for node in graph.node:
        for name in node.input:
            if name in users:
                users[name].append(node.op_type)
    return bool(users) and all(ops == ["GroupQueryAttention"] for ops in users.values())


def _head_size(file: Path) -> int:
    """Head size of a graph that names it symbolically, as onnxruntime-genai's do: from the config beside it."""
    config = file.parent / "genai_config.json"
    if config.is_file():
        size = json.loads(config.read_text(encoding="utf-8")).get("model", {}).get("decoder", {}).get("head_size")
        if isinstance(size, int):
            return size
    raise UserError("the head size is not fixed in the graph", where=str(file), fix="export the model again")


def _graph(file: Path) -> Any:
    try:
        import onnx
    except ImportError as error:
        raise EnvironmentFault("onnx is not installed", fix="pip install onnx") from error
    return onnx.load(str(file), load_external_data=False).graph


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
