"""A token classifier whose forward pass is the distillation loss, and the batches it reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill2edge.distill.batches import IGNORED, Collator
from distill2edge.distill.label_cache import TagReader, open_signal
from distill2edge.distill.losses import Objective, cross_entropy, distillation_loss
from distill2edge.distill.module import EncoderModule, LayerTeacher
from distill2edge.distill.taught_texts import TaughtTexts, collate_texts
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.distill.encoder_training import Lesson, Texts

UNKNOWN = -1
"""Label of a word that is read, and has no tag in the data."""


class TaggerModel(EncoderModule):
    """The student and its loss in one module.

    The loss of a word is `distillation_loss` of its distribution over tags, and the weighted terms on intermediate
    layers of its text; that of a step is the mean over its words.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        temperature: float,
        teacher: LayerTeacher | None,
        dtype: torch.dtype,
    ) -> None:
        """As `EncoderModule`."""
        super().__init__(student, objective, teacher, dtype)
        self.temperature = temperature

    def collator(self) -> Collator:
        """Texts -> the batch that `forward` takes."""
        return partial(_collate, pad=self.pad)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        log_p: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch.

        Args:
            input_ids, attention_mask: [B, L].
            labels: [B, L] the tag at the token of each of the P words; `UNKNOWN` without one; `IGNORED` elsewhere.
            log_p: [P, C] the teacher's log-probabilities at the temperature, row by row; NaN where it says nothing.
            num_items_in_batch: words of the whole step, over all micro-batches and processes; None: this batch alone.

        Returns:
            loss: the sum over this batch / that count. sum, ce: undivided. count: of this batch.
        """
        out = self.read(input_ids, attention_mask)
        texts, tokens = (labels != IGNORED).nonzero(as_tuple=True)
        logits, tags = out.logits.float()[texts, tokens], labels[texts, tokens]
        known, targets = tags >= 0, tags.clamp(min=0)
        if log_p is not None:
            # where the teacher says nothing, the student is its own: no divergence, and no gradient of it
            own = torch.log_softmax(logits.detach() / self.temperature, -1)
            log_p = torch.where(log_p.isnan(), own, log_p)
        each = distillation_loss(logits, targets, log_p, self.objective, self.temperature, known.float())
        each = each + self.layers(out, input_ids, attention_mask)[texts]
        with torch.no_grad():
            ce = cross_entropy(logits, targets)[known].sum()
        return {**self.summed(each, num_items_in_batch), "ce": ce}


class TaggedTexts(TaughtTexts):
    """Texts with the tags of their words, and the teacher's distributions where there is a cache."""

    signal: TagReader | None

    def __init__(self, rows: Sequence[Encoded], signal: TagReader | None) -> None:
        """Check every text; those without a word that has a token are left out: they teach nothing.

        Raises:
            UserError: as `TaughtTexts`; a text that has neither tags nor a teacher's.
        """
        super().__init__([row for row in rows if any(place >= 0 for place in row.places)], signal)
        if signal is None and any(row.tags is None for row in rows):
            raise UserError(
                "rows without tags teach nothing without the teacher", where="distill.loss",
                fix="set signal: {kind: labels}, or leave such rows out",
            )  # fmt: skip

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.rows[number]
        words = [word for word, place in enumerate(row.places) if place >= 0]
        tags = [UNKNOWN if row.tags is None else row.tags[word] for word in words]
        item: dict[str, Any] = {"ids": row.ids, "places": [row.places[word] for word in words], "tags": tags}
        if self.signal is not None:
            said = self.signal.get(row.id)
            beyond = said.new_full((max(len(row.places) - len(said), 0), said.shape[1]), torch.nan)
            item["log_p"] = torch.cat([said, beyond])[words]
        return item


def _collate(items: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """As `collate_texts`, with labels [B, L], and `log_p` [P, C] where there is a teacher."""
    batch = collate_texts([{"ids": item["ids"], "label": 0} for item in items], pad)
    labels = torch.full_like(batch["input_ids"], IGNORED)
    for row, item in enumerate(items):
        labels[row, torch.tensor(item["places"])] = torch.tensor(item["tags"])
    batch["labels"] = labels
    return {**batch, "log_p": torch.cat([item["log_p"] for item in items])} if "log_p" in items[0] else batch


def make_tagger(
    student: nn.Module, objective: Objective, beside: LayerTeacher | None, dtype: torch.dtype, lesson: Lesson
) -> tuple[TaggerModel, Texts]:
    """As `encoder_training.Make`, of a token classifier on the words' tags and the teacher's distributions over them.

    Raises:
        UserError: as `TaggedTexts`; no signal where the loss compares with one, or one of another number of tags.
    """
    tags = int(student.config.num_labels)
    reader = open_signal(lesson.signal, tags, TagReader, "tags") if lesson.loss.needs_logits else None
    model = TaggerModel(student, objective, reader.temperature if reader else 1.0, beside, dtype)
    return model, lambda rows: TaggedTexts(rows, reader)
