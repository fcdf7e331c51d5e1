"""What the trained modules share: a student whose forward pass is its loss, and the precision of its products."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn


class LossModule(nn.Module):
    """A student and its loss in one module, as `DistillTrainer` trains it.

    The forward pass returns `loss` (the sum over the batch / the count of the whole step, given as
    `num_items_in_batch`), `sum` and `ce` (undivided) and `count` (of this batch).

    Attributes:
        student: a Hugging Face model, or a PEFT model around one.
        dtype: what the matrix products run in (autocast where the weights are float32).
    """

    accepts_loss_kwargs = True  # the Trainer then hands over the global count of what the loss divides by

    def __init__(self, student: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.student, self.dtype = student, dtype

    @property
    def pad(self) -> int:
        """The id that rows are padded with; masks hide it, so any will do where the model has none."""
        pad = self.student.config.pad_token_id
        return pad if isinstance(pad, int) else 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Products in `dtype` while the block runs."""
        device = next(self.student.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)
