"""The distillation loss from hidden states, without keeping the logits.

The gradient is taken in the forward pass, chunk by chunk: logits of some hundred positions exist at once, turn into
their own gradient in place, and are gone. That costs two large products per position, as the dense loss does, where
recomputation (checkpointing) costs three; `benchmarks/distill_step.py` measures both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill2edge.distill.losses import (
    LOG_ZERO,
    Objective,
    Sampled,
    Teacher,
    TopK,
    coarsen_teacher,
    distillation_loss,
    divergence,
    gold_loss,
    known,
    sampled_forward_kl,
    sampled_weight,
)

BLOCK = 1 << 20
"""Logits that the element-wise passes work on at once on a CPU: 4 MiB of float32, so that they stay in its cache."""


@dataclass(frozen=True)
class Head:
    """How hidden states become logits: softcap(scale x sum of x_i W_i^T).

    Attributes:
        scale: factor on the logits.
        softcap: c in c tanh(z / c), or None.
    """

    scale: float = 1.0
    softcap: float | None = None


@dataclass(frozen=True)
class _Plan:
    objective: Objective
    temperature: float
    chunk: int
    head: Head
    grads: tuple[bool, ...]  # which of x_0, W_0, x_1, W_1, ... need a gradient


def chunked_loss(
    terms: Sequence[tuple[Tensor, Tensor]],
    targets: Tensor,
    teacher: Teacher | None,
    objective: Objective,
    *,
    temperature: float = 1.0,
    chunk: int = 256,
    head: Head | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum over positions of `losses.distillation_loss`, and of the cross-entropy alone.

    The products run in the dtype of `terms`, the loss in float32.

    Args:
        terms: pairs x [P, D], W [V, D] whose products add up to the logits: hidden states and head weight; for a head
            with a low-rank adapter also scale x A x and B; for a bias, a column of ones and the bias as [V, 1].
        targets: [P] int64.
        teacher: top-k signal, sample or dense log-probabilities [P, V] at the temperature; None where no term compares.
        chunk: positions whose logits are in memory at once.

    Returns:
        (loss, ce): scalars in float32; ce has no weight and no gradient.
    """
    positions, vocabulary = terms[0][0].shape[0], terms[0][1].shape[0]
    assert targets.shape == (positions,), (targets.shape, positions)
    for x, w in terms:
        assert x.shape[0] == positions, (x.shape, positions)
        assert w.shape == (vocabulary, x.shape[1]), (w.shape, x.shape)
        assert x.dtype == w.dtype, (x.dtype, w.dtype)
    assert teacher is not None or not objective.compared, "a divergence needs the teacher's distribution"
    if objective.compared:
        first = teacher if isinstance(teacher, Tensor) or teacher is None else teacher.tokens
        assert first is not None
        assert first.shape[0] == positions, (first.shape, positions)
    else:
        teacher = None
    flat = [tensor for pair in terms for tensor in pair]
    grads = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in flat)
    plan = _Plan(objective, temperature, chunk, head or Head(), grads)
    return _ChunkedLoss.apply(plan, targets, teacher, *flat)  # type: ignore[no-any-return, no-untyped-call]


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, targets: Tensor, teacher: Teacher | None, *flat: Tensor
    ) -> tuple[Tensor, Tensor]:
        xs, ws = flat[::2], flat[1::2]
        grads: list[Tensor | None] = [
            # Weights collect over chunks, in float32; activations are written once.
            (torch.zeros_like(t, dtype=torch.float32) if i % 2 else torch.empty_like(t)) if needed else None
            for i, (t, needed) in enumerate(zip(flat, plan.grads, strict=True))
        ]
        loss, ce = (torch.zeros((), dtype=torch.float64, device=targets.device) for _ in range(2))
        # The caller chose the dtypes: autocast must not turn the float32 parts back.
        with torch.autocast(targets.device.type, enabled=False):
            for begin in range(0, len(targets), plan.chunk):
                part = slice(begin, begin + plan.chunk)
                logits = _project([x[part] for x in xs], ws)
                loss_part, ce_part = _in_place(logits, targets[part], _rows(teacher, part), plan)
                loss += loss_part
                ce += ce_part
                for i, (x, w) in enumerate(zip(xs, ws, strict=True)):
                    dx, dw = grads[2 * i], grads[2 * i + 1]
                    if dx is not None:
                        torch.mm(logits, w, out=dx[part])
                    if dw is not None:
                        dw += logits.T @ x[part]
                del logits
        ctx.save_for_backward(*(g if g is None else g.to(t.dtype) for g, t in zip(grads, flat, strict=True)))
        ce = ce.float()
        ctx.mark_non_differentiable(ce)
        return loss.float(), ce

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, None, *(None if g is None else g * outer[0].to(g.dtype) for g in ctx.saved_tensors))


def _project(xs: Sequence[Tensor], ws: Sequence[Tensor]) -> Tensor:
    """[c, V], in the dtype of the terms."""
    logits = xs[0] @ ws[0].T
    for x, w in zip(xs[1:], ws[1:], strict=True):
        logits.addmm_(x, w.T)
    return logits


def _rows(teacher: Teacher | None, part: slice) -> Teacher | None:
    if teacher is None:
        return None
    return teacher[part] if isinstance(teacher, Tensor) else type(teacher)(*(t[part] for t in teacher))


def _in_place(logits: Tensor, targets: Tensor, teacher: Teacher | None, plan: _Plan) -> tuple[Tensor, Tensor]:
    """Loss and cross-entropy of [c, V] logits, summed.

    Where a gradient is needed, `logits` becomes d loss / d logits.
    """
    rows = max(1, BLOCK // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    loss, ce = (torch.zeros((), dtype=torch.float64, device=logits.device) for _ in range(2))
    for begin in range(0, len(logits), rows):
        part = slice(begin, begin + rows)
        z = logits[part].float()
        factor: Tensor | float = plan.head.scale
        if plan.head.scale != 1:
            z = z * plan.head.scale
        if plan.head.softcap:
            bent = torch.tanh(z / plan.head.softcap)
            factor = (1 - bent.square()) * plan.head.scale
            z = bent * plan.head.softcap
        signal = _rows(teacher, part)
        # `z` may be the very memory of `logits` (float32): each block is read before it is written.
        if isinstance(signal, Tensor):
            losses, ces, grad = _dense(z, targets[part], signal, plan)
        else:
            losses, ces, grad = _coarse(z, targets[part], signal, plan)
        loss += losses.double().sum()
        ce += ces.double().sum()
        if any(plan.grads):
            logits[part] = grad if isinstance(factor, float) and factor == 1 else grad * factor
    return loss, ce


def _coarse(z: Tensor, targets: Tensor, teacher: TopK | Sampled | None, plan: _Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [r], cross-entropies [r], gradient [r, V]; no teacher, top-k events, or a sample.

    Exponentials are the cost: at T = 1 those of the cross-entropy serve the divergence as well, and with `ce: 0` their
    sum is all that is taken of them.
    """
    objective, temperature = plan.objective, plan.temperature
    at = targets[:, None]
    further = _further(z, targets, objective) if objective.gold else None
    z = z - z.amax(-1, keepdim=True)
    whole = z.exp()
    total = whole.sum(-1, keepdim=True)
    ce = (total.log() - z.gather(-1, at)).squeeze(-1)
    loss, grad = objective.ce * ce, None
    if objective.ce:
        # What is still to be read is not written over.
        factor = objective.ce / total
        grad = whole * factor if temperature == 1 and teacher is not None else whole.mul_(factor)
        grad.scatter_add_(-1, at, torch.full_like(total, -objective.ce))
    if further is not None:
        loss, grad = loss + further[0], further[1] if grad is None else grad.add_(further[1])
    if teacher is None:
        return loss, ce, torch.zeros_like(z) if grad is None else grad
    beyond = teacher.tokens >= z.shape[1]  # the student has no such tokens
    tokens = _stand_ins(teacher.tokens, beyond, z.shape[1])
    kept = z.gather(-1, tokens) / temperature
    u = whole if temperature == 1 else z.div_(temperature).exp_()
    if isinstance(teacher, Sampled):
        value, grad = _of_sample(u, kept, total if temperature == 1 else None, known(teacher, z.shape[1]), plan, grad)
    else:
        value, grad = _of_events(u, kept, teacher, tokens, beyond, plan, grad)
    return loss + value, ce, grad


def _of_events(
    u: Tensor, kept: Tensor, teacher: TopK, tokens: Tensor, beyond: Tensor, plan: _Plan, grad: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Divergence [r] over k + 1 events, and its gradient [r, V] added to another.

    With v = z / T and the events' gradients g (their sum G), d/dv_j = g_j - G q_j for a kept token, and
    q_j (g_tail / q_tail - G) for one in the tail; the latter is one factor per row on exp(v).

    Args:
        u: [r, V] exp(v), written over.
        kept: [r, k] v of the tokens; their mass is in the teacher's tail where they are beyond the vocabulary.
    """
    vocabulary, temperature = u.shape[1], plan.temperature
    kept_mass = kept.exp().masked_fill(beyond, 0.0)
    # From here on the tail alone. In a row without a kept token every stand-in is token 0, which stays as it is.
    u.scatter_(-1, tokens, u.gather(-1, tokens) * beyond.all(-1, keepdim=True))
    tail = u.sum(-1, keepdim=True)
    whole = kept_mass.sum(-1, keepdim=True) + tail
    log_whole = whole.log()
    log_p = coarsen_teacher(teacher, vocabulary).float()
    log_q = (kept - log_whole).masked_fill(beyond, LOG_ZERO)
    if log_p.shape[1] > log_q.shape[1]:
        log_q = torch.cat([log_q, (tail.log() - log_whole).clamp_min(LOG_ZERO)], -1)
    with torch.enable_grad():
        log_q = log_q.detach().requires_grad_()
        value = temperature**2 * divergence(log_p, log_q, plan.objective)
        (g,) = torch.autograd.grad(value.sum(), log_q)
    mean = g.sum(-1, keepdim=True) / whole
    k = kept.shape[1]
    slope = torch.zeros_like(tail)
    if g.shape[1] > k:
        # An empty tail (underflow) has no probability to move.
        slope = torch.where(tail > 0, g[:, k:] / tail, slope) - mean
    grad = u.mul_(slope / temperature) if grad is None else grad.addcmul_(u, slope / temperature)
    grad.scatter_add_(-1, tokens, (g[:, :k].masked_fill(beyond, 0.0) - mean * kept_mass) / temperature)
    return value.detach(), grad


def _of_sample(
    u: Tensor, kept: Tensor, total: Tensor | None, teacher: Sampled, plan: _Plan, grad: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`losses.sampled_forward_kl` [r] x weight x T^2, and its gradient T (W q - w) [r, V] added to another, W being the
    sum of the weights w.

    Args:
        u: [r, V] exp(z / T), written over; total: [r, 1] its sum where it is known.
        kept: [r, m] z / T of the tokens.
    """
    temperature, weight = plan.temperature, sampled_weight(plan.objective)
    total = u.sum(-1, keepdim=True) if total is None else total
    value = weight * temperature**2 * sampled_forward_kl(kept - total.log(), teacher)
    slope = temperature * weight * teacher.weight
    factor = slope.sum(-1, keepdim=True) / total
    grad = u.mul_(factor) if grad is None else grad.addcmul_(u, factor)
    return value, grad.scatter_add_(-1, teacher.tokens, -slope)


def _further(z: Tensor, targets: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """Losses [r] and gradient [r, V] of the terms on the data's tokens that have no closed form here."""
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        losses = gold_loss(z, targets, objective)
        (grad,) = torch.autograd.grad(losses.sum(), z)
    return losses.detach(), grad


def _stand_ins(tokens: Tensor, beyond: Tensor, vocabulary: int) -> Tensor:
    """[r, k] ids within the vocabulary: a token beyond it becomes another token of its row, or 0 where it has none."""
    least = tokens.masked_fill(beyond, vocabulary).amin(-1, keepdim=True)
    return torch.where(beyond, least % vocabulary, tokens)


def _dense(z: Tensor, targets: Tensor, teacher: Tensor, plan: _Plan) -> tuple[Tensor, Tensor, Tensor]:
    """As `_coarse` for dense log-probabilities [r, V]: the reference itself, on one block."""
    with torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        losses = distillation_loss(z, targets, teacher, plan.objective, plan.temperature)
        (grad,) = torch.autograd.grad(losses.sum(), z)
    with torch.no_grad():
        ce = torch.logsumexp(z, -1) - z.gather(-1, targets[:, None]).squeeze(-1)
    return losses.detach(), ce, grad
