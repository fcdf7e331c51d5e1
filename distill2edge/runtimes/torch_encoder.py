"""Encoders in PyTorch: the reference that the other runtimes are held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.models.config import usable_positions
from distill2edge.models.kinds import CLASSIFIER, EMBEDDER, TAGGER, Kind
from distill2edge.models.loading import load_to_run
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.runtimes.protocol import check_request

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchEncoder:
    """A Hugging Face directory of a model that writes nothing: safetensors only, no remote code, no network.

    Raises:
        UserError: an unknown dtype, or a model of another kind.
        EnvironmentFault: `cuda` without a CUDA build or device.
    """

    name = "torch"
    kind: Kind

    def __init__(
        self,
        path: Path | str,
        *,
        threads: int,
        device: str = "cpu",
        context: int = 512,
        dtype: str = "float32",
        placement: Placement = WHOLE,
    ) -> None:
        if dtype not in _DTYPES:
            raise UserError(f"unknown dtype {dtype!r}", fix=f"one of {', '.join(_DTYPES)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise EnvironmentFault(
                f"PyTorch {torch.__version__} finds no CUDA device",
                fix="install a CUDA build of PyTorch on a machine with an NVIDIA GPU, or use device cpu",
            )
        torch.set_num_threads(threads)
        self._model: Any = load_to_run(path, _DTYPES[dtype], device, placement)
        self.vocab_size = int(self._model.config.vocab_size)
        self.context = min(context, usable_positions(self._model.config) or context)

    @torch.inference_mode()
    def _read(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        check_request(ids, (), self.context)
        found: np.ndarray = self.kind.logits(self._model, ids, 0, types).float().cpu().numpy()
        return found

    def close(self) -> None:
        """Drop the weights."""
        self._model = None


class _Labelled(TorchEncoder):
    """A model with a head.

    Attributes:
        labels: names of the classes, in the order of the logits.
    """

    def __init__(self, path: Path | str, **options: Any) -> None:
        super().__init__(path, **options)
        config = self._model.config
        self.labels = [str(config.id2label[index]) for index in range(config.num_labels)]


class TorchClassifier(_Labelled):
    """A sequence classifier."""

    kind = CLASSIFIER

    def classify(self, ids: Sequence[int], types: Sequence[int] | None = None) -> np.ndarray:
        """As `Classifier.classify` of `runtimes.protocol`, float32."""
        return self._read(ids, types)


class TorchTagger(_Labelled):
    """A token classifier."""

    kind = TAGGER

    def tag(self, ids: Sequence[int]) -> np.ndarray:
        """Logits [L, C] float32 of the tags of each token; `ids` hold the special tokens."""
        return self._read(ids)


class TorchEmbedder(TorchEncoder):
    """An embedder."""

    kind = EMBEDDER

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Vector [D] float32 of one text; `ids` hold the special tokens."""
        return self._read(ids)
