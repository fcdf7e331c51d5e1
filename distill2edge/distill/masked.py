"""Masked-language-model distillation of an encoder: which tokens are masked, the loss, and the batches it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

from distill2edge.distill.batches import IGNORED
from distill2edge.distill.losses import cross_entropy, distillation_loss
from distill2edge.distill.module import LossModule, segments_for
from distill2edge.distill.objective import objective_of
from distill2edge.distill.taught_texts import segments_of
from distill2edge.processes.ranks import total
from distill2edge.recipe.training import Loss

Piece = tuple[Sequence[int], Sequence[int] | None]
"""Token ids of a text or two, and the segment ids of two."""


def mask_tokens(
    ids: Tensor, special: Tensor, mask_id: int, vocabulary: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose tokens to predict: 80% become the mask, 10% another token, 10% stay (Devlin et al. 2019, section 3.1).

    Args:
        ids: [L].
        special: [L], true where a token must stay.
        share: of the other tokens; at least one is chosen where there is one.

    Returns:
        what the model reads [L]; the tokens to predict [L], `IGNORED` elsewhere.
    """
    able = (~special).nonzero()[:, 0]
    labels = torch.full_like(ids, IGNORED)
    if not len(able):
        return ids, labels
    count = max(1, round(share * len(able)))
    chosen = able[torch.randperm(len(able), generator=generator)[:count]]
    labels[chosen] = ids[chosen]
    read, fate = ids.clone(), torch.rand(count, generator=generator)
    read[chosen[fate < 0.8]] = mask_id
    other = chosen[(fate >= 0.8) & (fate < 0.9)]
    read[other] = torch.randint(vocabulary, (len(other),), generator=generator)
    return read, labels


class MaskedTexts(Dataset[dict[str, Any]]):
    """Every text `variants` times, each time masked elsewhere. What is masked depends on seed, text and variant."""

    def __init__(self, texts: Sequence[Piece], tokenizer: Any, share: float, variants: int, seed: int) -> None:
        special = torch.zeros(len(tokenizer), dtype=torch.bool)
        special[list(tokenizer.all_special_ids)] = True
        self.texts, self.variants, self.share, self.seed = texts, variants, share, seed
        self.special, self.mask_id, self.vocabulary = special, int(tokenizer.mask_token_id), len(tokenizer)
        self.lengths = [len(ids) for ids, _ in texts] * variants
        self.pad = int(tokenizer.pad_token_id or 0)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> dict[str, Any]:
        text, types = self.texts[number % len(self.texts)]
        ids = torch.tensor(text)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        read, labels = mask_tokens(ids, self.special[ids], self.mask_id, self.vocabulary, self.share, generator)
        return {"ids": read, "labels": labels, "types": types}


def collate_masked(items: Sequence[dict[str, Any]], pad: int) -> dict[str, Tensor]:
    """Pad on the right; input_ids, attention_mask, labels and, of two texts, token_type_ids, each [B, L] int64."""
    shape = (len(items), max(len(item["ids"]) for item in items))
    ids, mask, labels = torch.full(shape, pad), torch.zeros(shape, dtype=torch.int64), torch.full(shape, IGNORED)
    for row, item in enumerate(items):
        length = len(item["ids"])
        ids[row, :length], mask[row, :length], labels[row, :length] = item["ids"], 1, item["labels"]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return (
        {**batch, "token_type_ids": segments_of(items, shape[1])} if any(item.get("types") for item in items) else batch
    )


class MaskedModel(LossModule):
    """A masked language model and its loss in one module.

    The loss of a masked token is masked x CE + soft x T^2 x KL(teacher || student) + cosine x the mean distance of the
    last hidden states over the batch's real tokens (Sanh et al. 2019, section 3).

    Attributes:
        student: a Hugging Face masked language model.
    """

    def __init__(
        self,
        student: Any,
        teacher: Any | None,
        dtype: torch.dtype,
        *,
        soft: float = 0.0,
        masked: float = 1.0,
        cosine: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        """`teacher` is frozen and runs beside the student, where a term needs it."""
        super().__init__(student, dtype)
        self.config = student.config
        self.objective = objective_of(Loss(ce=masked, forward_kl=soft))  # type: ignore[call-arg]
        self.cosine, self.temperature = cosine, temperature
        self._beside = [] if teacher is None else [teacher]  # in a list: the teacher is not part of this module

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        token_type_ids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss of a batch; loss is the sum over it / the count of the step, sum is undivided, count of this batch."""
        chosen = labels != IGNORED
        with self.autocast():
            logits, last = predict(self.student, input_ids, attention_mask, chosen, token_type_ids)
        targets, log_p = labels[chosen], None
        distance = torch.zeros((), device=logits.device)
        if self._beside:
            teacher = self._beside[0].to(logits.device)
            with torch.no_grad(), self.autocast():
                theirs, their_last = predict(teacher, input_ids, attention_mask, chosen, token_type_ids)
            log_p = torch.log_softmax(theirs.float() / self.temperature, -1)
            real = attention_mask.bool()
            away = 1 - functional.cosine_similarity(last[real].float(), their_last[real].float(), dim=-1)
            # The mean over the real tokens of the micro-batch, of which another process has some, for each of its
            # targets, of which it has others.
            own = torch.tensor([len(away), len(targets)], device=away.device)
            counted, predicted = total(own * 0 if self.stands_in else own).tolist()
            distance = away.sum() / counted * predicted
        each = distillation_loss(logits.float(), targets, log_p, self.objective, self.temperature)
        summed = each.sum() + self.cosine * distance
        count = torch.tensor(len(targets), device=logits.device)
        items = count if num_items_in_batch is None else num_items_in_batch
        with torch.no_grad():
            ce = cross_entropy(logits.float(), targets).sum()
        return {"loss": summed / items, "sum": summed.detach(), "ce": ce, "count": count}


def predict(
    model: Any, input_ids: Tensor, attention_mask: Tensor, chosen: Tensor, segments: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits at the chosen positions [P, V], and all last hidden states [B, L, D].

    The head is most of a small encoder's work, so it sees the chosen positions alone.

    Args:
        segments: [B, L] ids of two texts' segments.
    """
    states: list[Tensor] = []

    def select(module: nn.Module, inputs: Any, output: Any) -> Any:
        states.append(output.last_hidden_state)
        output.last_hidden_state = output.last_hidden_state[chosen][None]
        return output

    handle = getattr(model, model.base_model_prefix).register_forward_hook(select)
    try:
        told = segments_for(model.config, segments)
        logits = model(input_ids=input_ids, attention_mask=attention_mask, **told).logits[0]
    finally:
        handle.remove()
    return logits, states[0]
