"""A causal language model whose forward pass is the distillation loss."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill2edge.distill.batches import Collator, collate, collate_packed, supervised
from distill2edge.distill.chunked import Head, chunked_loss
from distill2edge.distill.fake_quantization import weight_of
from distill2edge.distill.losses import Objective, Sampled, TopK
from distill2edge.distill.module import LossModule
from distill2edge.errors import UserError


class DistillModel(LossModule):
    """The student and its loss in one module.

    The loss is part of the forward pass so that data-parallel wrappers see every parameter that it uses.

    Attributes:
        student: a Hugging Face causal model, or a PEFT model around one.
        eval_objective: the terms in evaluation mode; those of training unless set.
        packing: whether the rows of a batch share sequences.
    """

    def __init__(
        self, student: nn.Module, objective: Objective, temperature: float, chunk: int, dtype: torch.dtype
    ) -> None:
        """`dtype`: what the matrix products run in (autocast where the weights are float32)."""
        super().__init__(student, dtype)
        self.objective = self.eval_objective = objective
        self.temperature, self.chunk, self.packing = temperature, chunk, False
        outer: Any = student
        base: Any = outer.get_base_model() if hasattr(outer, "get_base_model") else outer
        self.config = base.config
        self.head = base.get_output_embeddings()
        if self.head is None:
            raise UserError(f"{type(base).__name__} has no output head", fix="use a causal language model")
        # In lists, so that the module does not register what `student` already has.
        self._parts = [base, base.get_decoder()]
        self._shape = head_of(base.config)

    def collator(self) -> Collator:
        """Examples -> the batch that `forward` takes."""
        return partial(collate_packed if self.packing else collate, pad=self.pad)

    def hidden(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """[B, L, D] after the last norm.

        Args:
            position_ids: of packed rows. Without a mask of its own a model tells rows apart by them.
        """
        told = {"attention_mask": attention_mask} if position_ids is None else {"position_ids": position_ids}
        return self._parts[1](input_ids=input_ids, use_cache=False, **told).last_hidden_state  # type: ignore[no-any-return]

    def terms(self, hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The products whose sum is the logits of [P, D] hidden states; see `chunked_loss`."""
        head: Any = self.head
        base = head.get_base_layer() if hasattr(head, "get_base_layer") else head
        hidden = hidden.to(self.dtype)
        terms = [(hidden, weight_of(base).to(self.dtype))]
        if getattr(base, "bias", None) is not None:
            terms.append((hidden.new_ones(len(hidden), 1), base.bias.to(self.dtype)[:, None]))
        for name in getattr(head, "active_adapters", ()):
            if name in head.lora_A:
                down = head.lora_A[name].weight.to(self.dtype)
                low = head.lora_dropout[name](hidden) @ down.T * head.scaling[name]
                terms.append((low, head.lora_B[name].weight.to(self.dtype)))
        return terms

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        position_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **signal: Tensor,
    ) -> dict[str, Tensor]:
        """Loss of a batch made by `collate` or `collate_packed`.

        Args:
            num_items_in_batch: supervised tokens of the whole step, over all micro-batches and processes; None counts
                this batch alone.
            signal: the fields of `losses.TopK` or `Sampled`; none where no term compares.

        Returns:
            loss: the sum over this batch's supervised tokens / that count. sum, ce: undivided. count: of this batch.
        """
        with self.autocast():
            hidden = self.hidden(input_ids, attention_mask, position_ids)
            positions, targets = supervised(labels)
            terms = self.terms(hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions))
        teacher = None if not signal else Sampled(**signal) if "weight" in signal else TopK(**signal)
        total, ce = chunked_loss(
            terms,
            targets,
            teacher,
            self.objective if self.training else self.eval_objective,
            temperature=self.temperature,
            chunk=self.chunk,
            head=self._shape,
        )
        count = torch.tensor(len(targets), device=total.device)
        items = count if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / items, "sum": total.detach(), "ce": ce, "count": count}

    def own_logits(self, input_ids: Tensor) -> Tensor:
        """[L, V] of the model itself, of ids [1, L]."""
        return self._parts[0](input_ids=input_ids, use_cache=False).logits[0]  # type: ignore[no-any-return]

    @torch.no_grad()
    def check_head(self, input_ids: Tensor) -> None:
        """Refuse an architecture whose logits are made in a way that `terms` does not know.

        Args:
            input_ids: [1, L].

        Raises:
            UserError: the model's own logits differ.
        """
        was_training = self.training
        self.eval()
        with self.autocast():
            own = self.own_logits(input_ids).float()
            terms = self.terms(self.hidden(input_ids, torch.ones_like(input_ids))[0])
        self.train(was_training)
        logits = sum((x.float() @ w.float().T for x, w in terms), torch.zeros(())) * self._shape.scale
        if self._shape.softcap:
            logits = self._shape.softcap * torch.tanh(logits / self._shape.softcap)
        # bfloat16 keeps 8 bits: a wrong factor or a missing term is far outside.
        limit = (0.03 if self.dtype == torch.bfloat16 else 1e-3) * own.abs().max().clamp_min(1.0)
        if (logits - own).abs().max() > limit:
            raise UserError(
                f"{type(self._parts[0]).__name__} makes its logits in a way that is not supported",
                fix="choose a student of the Llama, Qwen, Gemma, Mistral, Phi, Granite or T5 families",
            )

    @torch.no_grad()
    def check_packing(self, ids: Sequence[int]) -> None:
        """Refuse an architecture that carries something from one row into the next: a recurrent state, a convolution.

        Args:
            ids: of one row.

        Raises:
            UserError: packed rows are not what they are alone.
        """
        rows = [list(ids[:begin]) for begin in (5, 16, 9)]
        batch = collate_packed([{"ids": row, "mask": [False] * len(row)} for row in rows], self.pad)
        was_training = self.training
        self.eval()
        with self.autocast():
            packed = self.hidden(batch["input_ids"], batch["attention_mask"], batch["position_ids"])[0].float()
            order = sorted(rows, key=len, reverse=True)
            alone = [self.hidden(torch.tensor([row]), torch.ones(1, len(row)))[0].float() for row in order]
        self.train(was_training)
        wanted = torch.cat(alone)
        limit = (0.03 if self.dtype == torch.bfloat16 else 1e-3) * wanted.abs().max().clamp_min(1.0)
        if (packed[: len(wanted)] - wanted).abs().max() > limit:
            raise UserError(
                f"{type(self._parts[0]).__name__} lets packed rows see each other",
                where="distill.packing",
                fix="set packing: false",
            )


def head_of(config: Any) -> Head:
    """What an architecture does to its logits after the product, from its configuration."""
    divisor = getattr(config, "logits_scaling", None)  # Granite
    factor = getattr(config, "logit_scale", None)  # Cohere
    width = getattr(config, "d_model", 0) if getattr(config, "scale_decoder_outputs", False) else 0  # tied T5
    scale = (
        (float(width) ** -0.5 if width else 1.0)
        * (float(factor) if factor else 1.0)
        / (float(divisor) if divisor else 1.0)
    )
    return Head(scale, getattr(config, "final_logit_softcapping", None))
