"""Encoders in ONNX Runtime: one text at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.models.config import check_fields, usable_positions
from distill2edge.models.pooling import OUTPUT
from distill2edge.runtimes.onnx_runtime import _first_line, model_file, open_session
from distill2edge.runtimes.protocol import check_request
from distill2edge.util.files import read_object

_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class OnnxEncoder:
    """A graph with the input `input_ids`, perhaps `attention_mask` and `token_type_ids`, all int64 [batch, sequence],
    and one output.

    Args:
        path: directory with `model.onnx`, or the file itself.

    Attributes:
        output: its name, and what such a graph is.

    Raises:
        UserError: no such file, or a graph with other inputs.
        EnvironmentFault: onnxruntime is not installed, or it lacks the device or an operator of the graph.
    """

    name = "onnxruntime"
    output: tuple[str, str]

    def __init__(self, path: str | Path, *, threads: int = 1, context: int = 512, device: str = "cpu") -> None:
        try:
            import onnxruntime  # noqa: F401 - a clear error before the first use
        except ImportError as error:
            raise EnvironmentFault("onnxruntime is not installed", fix="pip install onnxruntime") from error
        self.path = model_file(Path(path))
        self._session = open_session(self.path, threads=threads, device=device)
        self._names = [item.name for item in self._session.get_inputs()]
        outputs = {item.name: item for item in self._session.get_outputs()}
        name, what = self.output
        if "input_ids" not in self._names or not set(self._names) <= _INPUTS or name not in outputs:
            raise UserError(
                f"not {what}: it reads {', '.join(self._names)} and gives {', '.join(outputs)}",
                where=str(self.path),
                fix="give a file that `distill2edge export` wrote",
            )
        config_path = self.path.parent / "config.json"
        self._config = config = read_object(config_path) if config_path.is_file() else {}
        check_fields(config, config_path)
        self._width = outputs[name].shape[-1]
        self.vocab_size = int(config["vocab_size"]) if "vocab_size" in config else None
        self.context = min(context, usable_positions(config) or context)

    def _read(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """The output of one text alone, float32.

        Raises:
            ValueError: no ids, too many, or one outside the vocabulary.
            UserError: onnxruntime stopped.
        """
        check_request(ids, (), self.context)
        tokens = np.asarray(ids, dtype=np.int64)[None]
        # a quantized table is read at whatever row it is told, checked by nobody
        if self.vocab_size is not None and not (tokens.min() >= 0 and tokens.max() < self.vocab_size):
            raise ValueError(f"a token id is outside the vocabulary of {self.vocab_size}")
        feed = {"input_ids": tokens}
        if "attention_mask" in self._names:
            feed["attention_mask"] = np.ones_like(tokens)
        if "token_type_ids" in self._names:
            feed["token_type_ids"] = np.zeros_like(tokens) if types is None else np.asarray(types, dtype=np.int64)[None]
        try:
            found = self._session.run([self.output[0]], feed)[0]
        except Exception as error:
            # onnxruntime's exceptions share no public base class
            raise UserError(
                f"onnxruntime stopped: {_first_line(error)}", where=str(self.path), fix="export the model again"
            ) from error
        return np.asarray(found[0], dtype=np.float32)

    def close(self) -> None:
        """Let the session go."""
        self._session = None


class _Labelled(OnnxEncoder):
    """A model with a head: output `logits` [batch, ..., labels]. Names of the labels come from config.json beside it.

    Attributes:
        labels: names of the classes, in the order of the logits.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        super().__init__(path, **options)
        names = self._config.get("id2label") or {}
        count = len(names) or (self._width if isinstance(self._width, int) else 2)
        self.labels = [str(names.get(str(index), f"LABEL_{index}")) for index in range(count)]


class OnnxClassifier(_Labelled):
    """A sequence classifier: output `logits` [batch, labels]."""

    output = ("logits", "a classifier")

    def classify(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """As `Classifier.classify` of `runtimes.protocol`, float32."""
        return self._read(ids, types)


class OnnxTagger(_Labelled):
    """A token classifier: output `logits` [batch, sequence, labels]."""

    output = ("logits", "a token classifier")

    def tag(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [L, C] float32 of the tags of each token; `ids` hold the special tokens."""
        return self._read(ids)


class OnnxEmbedder(OnnxEncoder):
    """An embedder: output `sentence_embedding` [batch, dimensions]."""

    output = (OUTPUT, "an embedder")

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Vector [D] float32 of one text; `ids` hold the special tokens."""
        return self._read(ids)
