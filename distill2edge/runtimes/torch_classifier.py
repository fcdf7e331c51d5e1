"""A sequence classifier in PyTorch: the reference that the other runtimes are held to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.models.checkpoint import load_checkpoint
from distill2edge.models.config import usable_positions
from distill2edge.runtimes.protocol import check_request

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchClassifier:
    """A Hugging Face directory with a classification head: safetensors only, no remote code, no network.

    Attributes:
        labels: names of the classes, in the order of the logits.

    Raises:
        UserError: an unknown dtype.
        EnvironmentFault: `cuda` without a CUDA build or device.
    """

    name = "torch"

    def __init__(
        self, path: Path | str, *, threads: int, device: str = "cpu", context: int = 512, dtype: str = "float32"
    ) -> None:
        if dtype not in _DTYPES:
            raise UserError(f"unknown dtype {dtype!r}", fix=f"one of {', '.join(_DTYPES)}")
        if device == "cuda" and not torch.cuda.is_available():
            raise EnvironmentFault(
                f"PyTorch {torch.__version__} finds no CUDA device",
                fix="install a CUDA build of PyTorch on a machine with an NVIDIA GPU, or use device cpu",
            )
        torch.set_num_threads(threads)
        self.device = torch.device(device)
        kind: Any = AutoModelForSequenceClassification
        model: Any = load_checkpoint(kind, path, dtype=_DTYPES[dtype])
        self._model = model.to(self.device).eval()
        self.labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
        self.vocab_size = int(model.config.vocab_size)
        self.context = min(context, usable_positions(model.config) or context)

    @torch.inference_mode()
    def classify(self, ids: Sequence[int]) -> np.ndarray:
        """Class logits [C] float32 of one text; `ids` hold the special tokens."""
        check_request(ids, (), self.context)
        tensor = torch.tensor([list(ids)], dtype=torch.long, device=self.device)
        found: np.ndarray = self._model(tensor, attention_mask=torch.ones_like(tensor)).logits[0].float().cpu().numpy()
        return found

    def close(self) -> None:
        """Drop the weights."""
        self._model = None
