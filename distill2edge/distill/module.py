"""What the trained modules share: a student whose forward pass is its loss, and the precision of its products."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill2edge.distill.fake_quantization import FakeQuantizedWeight
from distill2edge.distill.losses import Objective
from distill2edge.models.config import knows_segments


def segments_for(config: Any, segments: Tensor | None) -> dict[str, Tensor]:
    """Segment ids as a model's argument; none where it knows no segments, or the batch has none."""
    return {"token_type_ids": segments} if segments is not None and knows_segments(config) else {}


class LossModule(nn.Module):
    """A student and its loss in one module, as `DistillTrainer` trains it.

    The forward pass returns `loss` (the sum over the batch / the count of the whole step, given as
    `num_items_in_batch`), `sum` and `ce` (undivided) and `count` (of this batch).

    Attributes:
        student: a Hugging Face model, or a PEFT model around one.
        dtype: what the matrix products run in (autocast where the weights are float32).
        fake_quantized: the weights that the student computes with as a file will store them (see `install`).
        stands_in: whether the batch is there only so that all processes compute alike: it counts for nothing.
    """

    accepts_loss_kwargs = True  # the Trainer then hands over the global count of what the loss divides by

    def __init__(self, student: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.student, self.dtype = student, dtype
        self.fake_quantized: dict[str, FakeQuantizedWeight] = {}
        self.stands_in = False

    @property
    def pad(self) -> int:
        """The id that rows are padded with; masks hide it, so any will do where the model has none."""
        pad = self.student.config.pad_token_id
        return pad if isinstance(pad, int) else 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Products in `dtype` while the block runs."""
        device = next(self.student.parameters()).device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)


@dataclass(frozen=True)
class LayerTeacher:
    """The teacher whose intermediate layers the student's are compared with: it runs beside the student.

    Attributes:
        teacher: frozen, in evaluation mode.
        layers: the teacher's layer for each of the student's.
        to_teacher: [student's vocabulary] int64, the teacher's id of each token; None where they are the same.
    """

    teacher: nn.Module
    layers: Sequence[int]
    to_teacher: Tensor | None = None


class EncoderModule(LossModule):
    """A student that reads whole texts, with or without its teacher beside it."""

    def __init__(
        self, student: nn.Module, objective: Objective, teacher: LayerTeacher | None, dtype: torch.dtype
    ) -> None:
        """`teacher`: where a term compares layers. `dtype`: of the products (autocast; the weights are float32)."""
        super().__init__(student, dtype)
        self.objective, self.config = objective, student.config
        self._beside = [] if teacher is None else [teacher]  # in a list: the teacher is not part of this module
        self._outputs = {f"output_{term.reads}": True for term in objective.layers}

    def read(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None, **more: Tensor
    ) -> Any:
        """What the student makes of a batch, with the layers that are compared.

        Args:
            token_type_ids: [B, L] segment ids of two texts, which a student that knows no segments is not given.
        """
        told = segments_for(self.config, token_type_ids)
        with self.autocast():
            return self.student(input_ids=input_ids, attention_mask=attention_mask, **told, **more, **self._outputs)

    @staticmethod
    def summed(each: Tensor, items: Tensor | int | None) -> dict[str, Tensor]:
        """`loss`, `sum` and `count` of the losses [B] of a batch; `items`: as `num_items_in_batch` of `forward`."""
        count, total = torch.tensor(len(each), device=each.device), each.sum()
        return {"loss": total / (count if items is None else items), "sum": total.detach(), "count": count}

    def layers(
        self, out: Any, input_ids: Tensor, mask: Tensor, token_type_ids: Tensor | None = None, **more: Tensor
    ) -> Tensor:
        """[B] the terms on intermediate layers; zeros where none is weighed. `token_type_ids`: as `read`."""
        total = torch.zeros(len(mask), device=mask.device)
        if not self._beside:
            return total
        beside = self._beside[0]
        ids = input_ids if beside.to_teacher is None else beside.to_teacher.to(input_ids.device)[input_ids]
        if next(beside.teacher.parameters()).device != input_ids.device:
            beside.teacher.to(input_ids.device)
        told = segments_for(beside.teacher.config, token_type_ids)
        with torch.no_grad(), self.autocast():
            theirs = beside.teacher(input_ids=ids, attention_mask=mask, **told, **more, **self._outputs)
        for term in self.objective.layers:
            first = 1 if term.reads == "hidden_states" else 0  # the embeddings are before the layers
            own, other = getattr(out, term.reads)[first:], getattr(theirs, term.reads)[first:]
            pairs = [(own[at], other[layer]) for at, layer in enumerate(beside.layers)]
            total = total + term.weight * term.function(*zip(*pairs, strict=True), mask)
        return total
