"""Distillation losses: pure functions on logits, one value per position.

Names: P positions, V vocabulary, k kept teacher tokens, T temperature. `log_p` is the teacher, `log_q` the student,
both log-probabilities at temperature T. All values are in nats. Divergences carry no T^2; `distillation_loss` does.

A top-k signal is compared on k + 1 events: the k tokens, and the rest of the vocabulary as one. The student's share of
the rest comes from its full log-sum-exp, so nothing is renormalised over k: the coarsened divergence is a lower bound
of the dense one, and equals it for k = V (data-processing inequality).

Embeddings are padded to round numbers, so a teacher may have ids beyond the student's rows: those of the k are no
events of the student's, and their mass belongs to the rest. Where the student's whole vocabulary is among the k, there
is no rest to compare, and the teacher is compared given that it names one of the student's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LOG_ZERO = -1e4
"""Stands for log 0: its exponential is 0 in float32, and sums and gradients stay finite."""


class Weighted(NamedTuple):
    """A term of the loss.

    Attributes:
        function: of logits and targets, of two distributions, or of intermediate layers (`recipe.loss_terms.Needs`).
        reads: the output of teacher and student that a term on layers compares; else empty.
    """

    weight: float
    function: Callable[..., Tensor]
    reads: str = ""


class Objective(NamedTuple):
    """The terms of a loss, by what they are computed from. `objective.objective_of` makes it of a recipe's section.

    Attributes:
        ce: weight of the cross-entropy on the tokens of the data, at temperature 1.
        gold: further functions of logits and targets.
        compared: functions of the teacher's and the student's distribution.
        layers: functions of their intermediate layers.
        embeddings: functions of their vectors of the texts.
        similarities: functions of how alike the texts of a batch are to them.
        numbers: functions of the data's and the student's number of a text.
        teacher_numbers: functions of the teacher's and the student's.
    """

    ce: float = 0.0
    gold: tuple[Weighted, ...] = ()
    compared: tuple[Weighted, ...] = ()
    layers: tuple[Weighted, ...] = ()
    embeddings: tuple[Weighted, ...] = ()
    similarities: tuple[Weighted, ...] = ()
    numbers: tuple[Weighted, ...] = ()
    teacher_numbers: tuple[Weighted, ...] = ()


class TopK(NamedTuple):
    """A teacher's distribution at temperature T: its k likeliest tokens, and the mass of all others.

    Attributes:
        tokens: [P, k] int64 token ids, distinct within a row; those beyond the student's vocabulary count as the tail.
        log_p: [P, k] float32.
        log_tail: [P] float32; ignored for k = V, where there is no tail.
    """

    tokens: Tensor
    log_p: Tensor
    log_tail: Tensor


class Sampled(NamedTuple):
    """A teacher's distribution at temperature T as a random sample of tokens, without bias: for every function f of a
    token the sum of weight x f(token) has the expectation of f under the teacher.

    Attributes:
        tokens: [P, m] int64 token ids; those beyond the student's vocabulary count for nothing.
        weight: [P, m] float32; 0 where a row has fewer tokens.
        entropy: [P] float32, of the teacher, in nats.
    """

    tokens: Tensor
    weight: Tensor
    entropy: Tensor


Teacher = TopK | Sampled | Tensor
"""A top-k signal, a sample, or dense log-probabilities [P, V] at temperature T."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of the targets.

    Args:
        logits: [P, V].
        targets: [P] int64.

    Returns:
        [P] float32.
    """
    assert logits.ndim == 2, logits.shape
    assert targets.shape == logits.shape[:1], (targets.shape, logits.shape)
    logits = logits.float()
    return torch.logsumexp(logits, -1) - logits.gather(-1, targets[:, None]).squeeze(-1)


def forward_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension.

    Args:
        log_p: [P, C] of the teacher.
        log_q: [P, C] of the student.

    Returns:
        [P].
    """
    log_p, log_q = _floored(log_p, log_q)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def reverse_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q || p) over the last dimension; shapes as `forward_kl`."""
    return forward_kl(log_q, log_p)


def sampled_forward_kl(log_q: Tensor, teacher: Sampled) -> Tensor:
    """An estimate of KL(p || q) without bias, by value and gradient, from a sample of p. It may be negative.

    Only what is linear in p can be had so: -sum of p log q, and the entropy of p, which is known.

    Args:
        log_q: [P, m] of the student, of the sample's tokens.

    Returns:
        [P].
    """
    return -(teacher.weight * log_q.clamp_min(LOG_ZERO)).sum(-1) - teacher.entropy


def jensen_shannon(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

    Divided by beta it tends to KL(p || q) for beta -> 0; divided by 1 - beta, to KL(q || p) for beta -> 1
    (Agarwal et al. 2024, "On-Policy Distillation of Language Models", equation 1 and below).

    Args:
        log_p: [P, C] of the teacher.
        log_q: [P, C] of the student.
        beta: weight of the teacher, in (0, 1).

    Returns:
        [P].
    """
    assert 0 < beta < 1, beta
    log_p, log_q = _floored(log_p, log_q)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * forward_kl(log_p, log_m) + (1 - beta) * forward_kl(log_q, log_m)


def earth_movers_distance(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Earth mover's distance of two distributions over steps of a scale, in steps: the probability to be moved, each by
    as many steps as it is moved. It is the sum of the differences of the two cumulative distributions (Rubner et al.
    2000, section 4.3.1: one dimension).

    Args:
        log_p: [P, C] of the teacher, classes in their order.
        log_q: [P, C] of the student.

    Returns:
        [P], from 0 to C - 1.
    """
    log_p, log_q = _floored(log_p, log_q)
    return (log_p.exp().cumsum(-1) - log_q.exp().cumsum(-1))[..., :-1].abs().sum(-1)


def divergence(log_p: Tensor, log_q: Tensor, objective: Objective) -> Tensor:
    """The weighted sum of the terms that compare two distributions (no cross-entropy, no T^2).

    Args:
        log_p: [P, C] of the teacher.
        log_q: [P, C] of the student.

    Returns:
        [P].
    """
    total = torch.zeros(log_p.shape[:-1], dtype=log_q.dtype, device=log_q.device)
    for term in objective.compared:
        total = total + term.weight * term.function(log_p, log_q)
    return total


def sampled_weight(objective: Objective) -> float:
    """The weight of the forward KL, the one divergence that a sample gives (`recipe.loss_terms.Term.sampled`)."""
    others = [term.function for term in objective.compared if term.function is not forward_kl]
    assert not others, f"no sample gives {others}"
    return sum(term.weight for term in objective.compared)


def gold_loss(logits: Tensor, targets: Tensor, objective: Objective) -> Tensor:
    """The weighted sum of the terms on the data's own tokens, cross-entropy left out; shapes as `cross_entropy`."""
    total = torch.zeros(logits.shape[0], device=logits.device)
    for term in objective.gold:
        total = total + term.weight * term.function(logits, targets)
    return total


def coarsen_teacher(teacher: TopK, vocabulary: int) -> Tensor:
    """The teacher's k + 1 events. A token beyond the vocabulary has none of its own: its mass is in the tail.

    Returns:
        [P, k + 1] with the tail last; [P, k] where the k are the vocabulary.
    """
    positions, k = teacher.tokens.shape
    assert teacher.log_p.shape == (positions, k), (teacher.log_p.shape, teacher.tokens.shape)
    assert teacher.log_tail.shape == (positions,), teacher.log_tail.shape
    beyond = teacher.tokens >= vocabulary
    if not _has_tail(beyond, vocabulary):
        return teacher.log_p
    kept = teacher.log_p.masked_fill(beyond, LOG_ZERO)
    folded = torch.logsumexp(teacher.log_p.masked_fill(~beyond, LOG_ZERO), -1)
    tail = torch.logaddexp(teacher.log_tail, folded)
    # No student can follow the mass of a tail that it does not have.
    whole = (~beyond).sum(-1) == vocabulary
    kept = torch.where(whole[:, None], torch.log_softmax(kept, -1).masked_fill(beyond, LOG_ZERO), kept)
    tail = tail.masked_fill(whole, LOG_ZERO)
    return torch.cat([kept, tail[:, None]], -1)


def coarsen_student(logits: Tensor, index: Tensor, temperature: float) -> Tensor:
    """The student's log-probabilities of the same k + 1 events.

    The tail is the log-sum-exp of the other logits: 1 minus the sum of k probabilities would cancel.

    Args:
        logits: [P, V].
        index: [P, k] int64, distinct within a row; ids of V and above are not events.

    Returns:
        [P, k + 1] float32 with the tail last; [P, k] where the k are the vocabulary.
    """
    assert logits.ndim == 2, logits.shape
    assert index.ndim == 2, index.shape
    assert index.shape[0] == logits.shape[0], (index.shape, logits.shape)
    scaled = logits.float() / temperature
    vocabulary = logits.shape[1]
    beyond = index >= vocabulary
    events = scaled.gather(-1, index.masked_fill(beyond, 0)).masked_fill(beyond, LOG_ZERO)
    if _has_tail(beyond, vocabulary):
        named = scaled.new_zeros((len(scaled), vocabulary + 1), dtype=torch.bool)
        named = named.scatter(-1, index.clamp(max=vocabulary), True)[:, :vocabulary]
        rest = torch.logsumexp(scaled.masked_fill(named, -math.inf), -1, keepdim=True)
        events = torch.cat([events, rest.masked_fill(named.all(-1, keepdim=True), LOG_ZERO)], -1)
    return torch.log_softmax(events, -1)


def _has_tail(beyond: Tensor, vocabulary: int) -> bool:
    """Whether the k tokens leave an event for the rest: not where they are the vocabulary, each once."""
    return beyond.shape[1] != vocabulary or bool(beyond.any())


def distillation_loss(
    logits: Tensor,
    targets: Tensor,
    teacher: Teacher | None,
    objective: Objective,
    temperature: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Terms on the data's tokens + T^2 x (weighted divergences at temperature T): the reference of `chunked`.

    T^2 keeps the size of the gradient when T changes (Hinton et al. 2015, section 2).

    Args:
        logits: [P, V] of the student.
        targets: [P] int64, the tokens of the data.
        teacher: at temperature T; None where no term compares.
        weights: [P] of the terms on targets; 0 where a position has none: it takes the divergences alone. None: all 1.

    Returns:
        [P] float32.
    """
    total = torch.zeros(logits.shape[0], device=logits.device)
    if objective.ce:
        total = total + objective.ce * cross_entropy(logits, targets)
    if objective.gold:
        total = total + gold_loss(logits, targets, objective)
    if weights is not None:
        total = torch.where(weights > 0, total * weights, 0.0)
    if objective.compared:
        assert teacher is not None, "a divergence needs the teacher's distribution"
        if isinstance(teacher, Sampled):
            compared = sampled_weight(objective) * _sampled(logits, teacher, temperature)
        else:
            compared = divergence(*events(logits, teacher, temperature), objective)
        total = total + temperature**2 * compared
    return total


def _sampled(logits: Tensor, teacher: Sampled, temperature: float) -> Tensor:
    """`sampled_forward_kl` [P] of logits [P, V]."""
    within = known(teacher, logits.shape[1])
    log_q = torch.log_softmax(logits.float() / temperature, -1).gather(-1, within.tokens)
    return sampled_forward_kl(log_q, within)


def known(teacher: Sampled, vocabulary: int) -> Sampled:
    """The same, without what the student has no token for."""
    beyond = teacher.tokens >= vocabulary
    return Sampled(teacher.tokens.masked_fill(beyond, 0), teacher.weight.masked_fill(beyond, 0.0), teacher.entropy)


def events(logits: Tensor, teacher: TopK | Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Teacher and student over the same events: the vocabulary, or k tokens and the tail.

    Returns:
        log_p, log_q: [P, C] float32 at temperature T.
    """
    if isinstance(teacher, TopK):
        log_p = coarsen_teacher(teacher, logits.shape[1])
        return log_p.float(), coarsen_student(logits, teacher.tokens, temperature)
    assert teacher.shape == logits.shape, (teacher.shape, logits.shape)
    return teacher.float(), torch.log_softmax(logits.float() / temperature, -1)


def top_k_of(log_p: Tensor, k: int) -> TopK:
    """The top-k signal of dense log-probabilities [P, V]."""
    values, index = log_p.float().topk(k, -1)
    if k == log_p.shape[1]:
        return TopK(index, values, values.new_full(values.shape[:1], LOG_ZERO))
    rest = log_p.float().scatter(-1, index, -math.inf)
    return TopK(index, values, torch.logsumexp(rest, -1))


def _floored(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    assert log_p.shape == log_q.shape, (log_p.shape, log_q.shape)
    return log_p.clamp_min(LOG_ZERO), log_q.clamp_min(LOG_ZERO)
