"""An embedder whose forward pass is the distillation loss, and the batches it reads."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from distill2edge.distill.batches import Collator
from distill2edge.distill.embedding_losses import cosines
from distill2edge.distill.label_cache import VectorReader
from distill2edge.distill.losses import Objective
from distill2edge.distill.module import EncoderModule, LayerTeacher
from distill2edge.distill.taught_texts import TaughtTexts, collate_texts
from distill2edge.errors import UserError
from distill2edge.models.pooling import pooling_of
from distill2edge.processes.ranks import gathered

if TYPE_CHECKING:
    from distill2edge.distill.encoder_training import Lesson, Texts


class EmbedderModel(EncoderModule):
    """The student and its loss in one module.

    Terms on vectors compare the whole ones. Those on similarities are the mean over the student's dimensions: its whole
    vector, and each prefix of it that is to serve alone (Kusupati et al. 2022, Matryoshka), scaled to unit length.
    """

    def __init__(
        self, student: nn.Module, objective: Objective, teacher: LayerTeacher | None, dtype: torch.dtype
    ) -> None:
        """As `EncoderModule`."""
        super().__init__(student, objective, teacher, dtype)
        pooling = pooling_of(student.config)
        assert pooling is not None, "the student is no embedder"
        self._pooling = pooling

    def collator(self) -> Collator:
        """Texts -> the batch that `forward` takes."""
        return partial(collate_texts, pad=self.pad, taught="vectors")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        vectors: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            input_ids, attention_mask: [B, L].
            labels: [B] of no meaning: what losses are divided by is counted in them.
            vectors: [B, D] of the teacher.
            num_items_in_batch: texts of the whole step, over all micro-batches and processes; None: this batch alone.

        Returns:
            loss: the sum over this batch / that count. sum: undivided. count: of this batch.
        """
        out = self.read(input_ids, attention_mask)
        own = self._pooling.of(out.last_hidden_state.float(), attention_mask)
        each = self.layers(out, input_ids, attention_mask)
        each = each + self._compared(normalize(vectors.float(), dim=-1), own)
        return self.summed(each, num_items_in_batch)

    def _compared(self, theirs: Tensor, own: Tensor) -> Tensor:
        """[B] the terms on vectors [B, D] of the teacher and [B, d] of the student."""
        total = torch.zeros(len(own), device=own.device)
        for term in self.objective.embeddings:
            total = total + term.weight * term.function(theirs, normalize(own, dim=-1))
        sizes = self._pooling.dimensions or (own.shape[1],)
        if not self.objective.similarities:
            return total
        # A text is compared with all others of the micro-batch, whichever process has them.
        real = 0 if self.stands_in else len(own)
        all_own, begin = gathered(own[:real])
        all_theirs, _ = gathered(theirs[:real])
        if len(all_own) < 2 or not real:
            return total + 0.0 * all_own.sum()
        for term in self.objective.similarities:
            for size in sizes:
                ours = cosines(normalize(all_own[:, :size], dim=-1), begin, real)
                total = total + term.weight / len(sizes) * term.function(cosines(all_theirs, begin, real), ours)
        return total


class EmbeddedTexts(TaughtTexts):
    """Texts, each with the teacher's vector."""

    signal: VectorReader

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        return {"ids": row.ids, "label": 0, "vectors": self.signal.get(row.id)}


def make_embedder(
    student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype, lesson: Lesson
) -> tuple[EmbedderModel, Texts]:
    """As `encoder_training.Make`, of an embedder on its teacher's vectors.

    Raises:
        UserError: as `EmbeddedTexts`; a term on vectors where the widths differ.
    """
    assert lesson.signal is not None
    reader, width = VectorReader(lesson.signal[0]), student.config.hidden_size
    for term, _ in lesson.loss.weighed("embeddings") if reader.classes != width else ():
        raise UserError(
            f"{term.label}: vectors of {width} and {reader.classes} dimensions cannot be compared",
            where=f"distill.loss.{term.name}",
            fix="set it to 0 and give similarity a weight, or use student.init: {from: teacher, layers: N}",
        )
    return EmbedderModel(student, objective, beside, dtype), lambda rows: EmbeddedTexts(rows, reader)
