"""Runs GGUF encoders in llama.cpp: token ids in; class logits, or one vector, out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from distill2edge.errors import UserError
from distill2edge.gguf.fields import items
from distill2edge.gguf.hyperparameters import NORMALIZE, POOLINGS
from distill2edge.gguf.reader import read_gguf
from distill2edge.runtimes.llama_library import FLASH_OFF, LlamaModel, model_file
from distill2edge.runtimes.protocol import check_request


def output_labels(path: str | Path) -> list[str]:
    """Names of the classes in a GGUF's metadata; empty for a file that is no classifier.

    Raises:
        UserError: they are no list of texts, or not as many as the head has outputs.
    """
    file, key = read_gguf(model_file(Path(path))), ".classifier.output_labels"
    if file.get(key) is None:
        return []
    head = file.tensors.get("cls.output.weight")
    # As many numbers are read from llama.cpp's memory as there are labels.
    return items(file, key, str, None if head is None else head.shape[0])


class LlamaCppEncoder(LlamaModel):
    """One GGUF that says something of a whole text, by one of llama.cpp's poolings.

    Args:
        path: a `.gguf` file, or a directory with `model.gguf`.
        threads: threads of a pass.
        device: `cpu`, or `cuda` with a build of llama-cpp-python that has it.
        context: the most tokens of one text; at most what the model was trained with.

    Raises:
        UserError: no such file, or one that llama.cpp cannot load.
        EnvironmentFault: llama-cpp-python or the device is missing, or there is no memory for the context.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, device: str = "cpu", context: int = 512) -> None:
        super().__init__(path, device)
        self.context = min(context, int(self._api.llama_model_n_ctx_train(self._model)))
        params = self._api.llama_context_default_params()
        params.embeddings = True
        params.flash_attn_type = FLASH_OFF  # its CPU path rounds keys and values to 16 bits
        # An encoder looks both ways, so a text goes through in one piece. How it pools is in the file.
        self._open_context(threads, self.context, params, self.context)

    def _read(self, ids: Sequence[int], width: int) -> np.ndarray:
        """`width` numbers, float32, of one text."""
        check_request(ids, (), self.context)
        tokens = self._tokens(ids)
        self._buffers.fill(0, 0, tokens, 0, np.ones(len(tokens), dtype=bool))
        self._run(len(tokens), "llama_encode")
        pointer = self._api.llama_get_embeddings_seq(self._context, 0)
        return np.ctypeslib.as_array(pointer, shape=(width,)).astype(np.float32, copy=True)

    def logits(self, ids: Sequence[int], positions: Sequence[int]) -> NoReturn:
        """It predicts no tokens."""
        raise _no_tokens(self.path)

    def prefill(self, ids: Sequence[int]) -> NoReturn:
        """It predicts no tokens."""
        raise _no_tokens(self.path)

    def decode(self, token: int) -> NoReturn:
        """It predicts no tokens."""
        raise _no_tokens(self.path)


class LlamaCppClassifier(LlamaCppEncoder):
    """A classifier (`bert` with pooling type rank).

    Attributes:
        labels: names of the classes, in the order of the logits.

    Raises:
        UserError: a file without a classification head.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        self.labels = output_labels(path)
        if not self.labels:
            raise UserError("this GGUF has no classification head", where=str(path),
                            fix="export a sequence classifier, or run it as a language model")  # fmt: skip
        super().__init__(path, **options)

    def classify(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """Class logits [C] float32 of one text; `ids` hold the special tokens ([CLS] ... [SEP]).

        Raises:
            ValueError: two texts: llama.cpp gives every token the first one's segment.
        """
        if types is not None:
            raise ValueError("llama.cpp reads one text")
        return self._read(ids, len(self.labels))


class LlamaCppEmbedder(LlamaCppEncoder):
    """An embedder. llama.cpp pools; the length of the vector is left to programs, which give it unit length by default
    (`llama-embedding`, its server), and so does this one, unless the file says that the model does not.

    Raises:
        UserError: a file without a pooling that makes one vector.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        file = read_gguf(model_file(Path(path)))
        if file.get(".pooling_type") not in POOLINGS.values():
            raise UserError("this GGUF does not say how one vector is made of a text", where=str(path),
                            fix="export an embedder")  # fmt: skip
        self._normalizes = file.get(NORMALIZE) is not False
        super().__init__(path, **options)
        self._width = int(self._api.llama_model_n_embd(self._model))

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Vector [D] float32 of one text; `ids` hold the special tokens."""
        vector = self._read(ids, self._width)
        return vector / np.linalg.norm(vector) if self._normalizes else vector


def _no_tokens(path: Path) -> UserError:
    return UserError("this GGUF is an encoder: it predicts no tokens", where=str(path), fix="call classify or embed")
