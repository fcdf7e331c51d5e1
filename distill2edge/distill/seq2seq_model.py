"""The distillation loss of an encoder-decoder: the same chunked losses, on the decoder's positions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from distill2edge.distill.batches import IGNORED, Collator, signals_of
from distill2edge.distill.decoder_model import DistillModel
from distill2edge.models.kinds import start_token_id


class Seq2SeqDistillModel(DistillModel):
    """An encoder-decoder student and its loss in one module. Batches come from `collate_pairs`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parts = [self._parts[0], self._parts[0].get_decoder(), self._parts[0].get_encoder()]

    def collator(self) -> Collator:
        """As `DistillModel.collator`."""
        return partial(collate_pairs, pad=self.pad, start=start_token_id(self.config))

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        decoder_input_ids: Tensor,
        **signal: Any,
    ) -> dict[str, Tensor]:
        """As `DistillModel.forward`; `labels` and `decoder_input_ids` [B, 1 + T] begin at the start token."""
        self._source = (input_ids, attention_mask)
        try:
            return super().forward(decoder_input_ids, attention_mask, labels, **signal)
        finally:
            self._source = None

    _source: tuple[Tensor, Tensor] | None = None

    def hidden(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """[B, 1 + T, D] after the decoder's last norm, of decoder ids; the source is the batch's own."""
        source, mask = self._source if self._source is not None else (input_ids, attention_mask)
        read = self._parts[2](input_ids=source, attention_mask=mask).last_hidden_state
        out = self._parts[1](
            input_ids=input_ids, encoder_hidden_states=read, encoder_attention_mask=mask, use_cache=False
        )
        return out.last_hidden_state  # type: ignore[no-any-return]

    def own_logits(self, input_ids: Tensor) -> Tensor:
        """[L, V] of the model itself, the ids being source and target at once."""
        out = self._parts[0](input_ids=input_ids, decoder_input_ids=input_ids, use_cache=False)
        return out.logits[0]  # type: ignore[no-any-return]


def collate_pairs(items: Sequence[dict[str, Any]], pad: int, start: int) -> dict[str, Tensor]:
    """Pad both sides on the right.

    Args:
        items: `ids` and `mask` of `Encoded` pairs: the source is what comes before the first supervised token.

    Returns:
        input_ids, attention_mask [B, S]; decoder_input_ids [B, 1 + T], which begins with `start`; labels [B, 1 + T]:
        the target from its second column on, so that token t is predicted at t - 1 as in a decoder. With a signal also
        its fields.
    """
    prompts = [item["mask"].index(True) for item in items]
    targets = [len(item["ids"]) - prompt for item, prompt in zip(items, prompts, strict=True)]
    source = torch.full((len(items), max(prompts)), pad, dtype=torch.int64)
    attention = torch.zeros_like(source)
    decoder = torch.full((len(items), 1 + max(targets)), pad, dtype=torch.int64)
    labels = torch.full_like(decoder, IGNORED)
    decoder[:, 0] = start
    for row, (item, prompt, target) in enumerate(zip(items, prompts, targets, strict=True)):
        ids = torch.tensor(item["ids"])
        source[row, :prompt] = ids[:prompt]
        attention[row, :prompt] = 1
        decoder[row, 1 : 1 + target] = labels[row, 1 : 1 + target] = ids[prompt:]
    batch = {"input_ids": source, "attention_mask": attention, "decoder_input_ids": decoder, "labels": labels}
    return batch | signals_of(items)
