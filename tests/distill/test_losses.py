"""Losses against plain float64 formulas: value and gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import objective
from torch import Tensor

from distill2edge.distill.losses import (
    LOG_ZERO,
    Sampled,
    TopK,
    coarsen_student,
    coarsen_teacher,
    cross_entropy,
    distillation_loss,
    divergence,
    forward_kl,
    jensen_shannon,
    reverse_kl,
    top_k_of,
)
from distill2edge.distill.objective import objective_of
from distill2edge.recipe.schema import Loss

CASES = settings(max_examples=60)
sizes = st.tuples(st.integers(1, 6), st.integers(2, 40), st.integers(0, 10_000))
temperatures = st.sampled_from([0.5, 1.0, 1.7, 2.0, 4.0])
spreads = st.sampled_from([0.1, 1.0, 5.0, 20.0])
betas = st.floats(0.02, 0.98)


def make(positions: int, vocabulary: int, seed: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits (leaf), teacher logits, targets."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(positions, vocabulary, generator=generator) * spread
    teacher = torch.randn(positions, vocabulary, generator=generator) * spread
    targets = torch.randint(vocabulary, (positions,), generator=generator)
    return student.requires_grad_(), teacher, targets


def plain(logits: Tensor, targets: Tensor, teacher: Tensor, weights: Loss, temperature: float) -> Tensor:
    """The definitions, in probabilities and float64."""
    ce = -torch.softmax(logits, -1).gather(-1, targets[:, None]).squeeze(-1).log()
    q, p = torch.softmax(logits / temperature, -1), torch.softmax(teacher / temperature, -1)
    m = weights.jsd_beta * p + (1 - weights.jsd_beta) * q

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return torch.special.xlogy(a, a).sum(-1) - torch.special.xlogy(a, b).sum(-1)

    mixture = weights.jsd_beta * kl(p, m) + (1 - weights.jsd_beta) * kl(q, m)
    total = weights.forward_kl * kl(p, q) + weights.reverse_kl * kl(q, p) + weights.jsd * mixture
    return weights.ce * ce + temperature**2 * total


def assert_same(ours: Tensor, reference: Tensor, logits: Tensor, double: Tensor) -> None:
    torch.testing.assert_close(ours.double(), reference, rtol=2e-4, atol=2e-5)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    (expected,) = torch.autograd.grad(reference.sum(), double)
    torch.testing.assert_close(gradient.double(), expected, rtol=2e-4, atol=2e-5)


@CASES
@given(sizes, temperatures, st.sampled_from([0.1, 1.0, 4.0]), betas)
def test_dense_loss_is_its_definition_by_value_and_gradient(size, temperature, spread, beta):
    logits, teacher, targets = make(*size, spread)
    weights = Loss(ce=0.3, forward_kl=0.7, reverse_kl=0.5, jsd=1.1, jsd_beta=beta)
    log_p = torch.log_softmax(teacher / temperature, -1)
    double = logits.detach().double().requires_grad_()
    reference = plain(double, targets, teacher.double(), weights, temperature)
    ours = distillation_loss(logits, targets, log_p, objective_of(weights), temperature)
    assert_same(ours, reference, logits, double)


@CASES
@given(sizes, temperatures, spreads, betas)
def test_top_k_of_the_whole_vocabulary_is_the_dense_loss(size, temperature, spread, beta):
    logits, teacher, targets = make(*size, spread)
    weights = objective(ce=0.2, forward_kl=0.9, reverse_kl=0.4, jsd=0.6, jsd_beta=beta)
    log_p = torch.log_softmax(teacher / temperature, -1)
    dense = distillation_loss(logits, targets, log_p, weights, temperature)
    kept = distillation_loss(logits, targets, top_k_of(log_p, size[1]), weights, temperature)
    torch.testing.assert_close(kept, dense, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (kept, dense)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@CASES
@given(sizes, temperatures, spreads, st.data())
def test_top_k_is_the_definition_on_k_plus_one_events(size, temperature, spread, data):
    """The tail is 1 minus the kept mass, of teacher and student alike, in float64."""
    logits, teacher, targets = make(*size, min(spread, 4.0))
    k = data.draw(st.integers(1, size[1] - 1))
    signal = top_k_of(torch.log_softmax(teacher / temperature, -1), k)
    double = logits.detach().double().requires_grad_()
    p, q = (torch.softmax(z / temperature, -1).gather(-1, signal.tokens) for z in (teacher.double(), double))
    p, q = (torch.cat([x, (1 - x.sum(-1, keepdim=True)).clamp_min(1e-300)], -1) for x in (p, q))
    m = 0.3 * p + 0.7 * q
    kl = (p * (p / q).log()).sum(-1)
    jsd = 0.3 * (p * (p / m).log()).sum(-1) + 0.7 * (q * (q / m).log()).sum(-1)
    reference = temperature**2 * (kl + 0.5 * jsd)
    ours = distillation_loss(logits, targets, signal, objective(forward_kl=1, jsd=0.5, jsd_beta=0.3), temperature)
    assert_same(ours, reference, logits, double)


@CASES
@given(sizes, spreads, betas, st.data())
def test_the_coarse_divergence_never_exceeds_the_dense_one(size, spread, beta, data):
    logits, teacher, _ = make(*size, spread)
    log_p, log_q = torch.log_softmax(teacher, -1), torch.log_softmax(logits.detach(), -1)
    signal = top_k_of(log_p, data.draw(st.integers(1, size[1])))
    coarse = coarsen_teacher(signal, size[1]), coarsen_student(logits.detach(), signal.tokens, 1.0)
    for weights in (objective(forward_kl=1), objective(reverse_kl=1), objective(jsd=1, jsd_beta=beta)):
        slack = 1e-4 * (1 + divergence(log_p, log_q, weights).abs())
        assert (divergence(*coarse, weights) <= divergence(log_p, log_q, weights) + slack).all()


@CASES
@given(sizes, temperatures, spreads)
def test_a_sample_of_every_token_is_the_dense_forward_kl(size, temperature, spread):
    logits, teacher, targets = make(*size, min(spread, 5.0))
    log_p = torch.log_softmax(teacher / temperature, -1)
    every = torch.arange(size[1]).expand(size[0], -1)
    sample = Sampled(every, log_p.exp(), -(log_p.exp() * log_p).sum(-1))
    weights = objective(ce=0.2, forward_kl=0.9)
    found, dense = (distillation_loss(logits, targets, each, weights, temperature) for each in (sample, log_p))
    torch.testing.assert_close(found, dense, rtol=1e-4, atol=1e-4)
    gradients = [torch.autograd.grad(loss.sum(), logits, retain_graph=True)[0] for loss in (found, dense)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_no_other_divergence_is_computed_from_a_sample():
    logits, _, targets = make(3, 7, 0, 1.0)
    sample = Sampled(torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1), torch.zeros(3))
    for weights in (objective(reverse_kl=1), objective(forward_kl=1, jsd=0.1)):
        with pytest.raises(AssertionError, match="no sample gives"):
            distillation_loss(logits, targets, sample, weights)


def test_the_tail_is_not_renormalised_over_k():
    """A student that moves mass outside the teacher's top k must pay for it."""
    teacher = torch.tensor([[3.0, 2.0, -4.0, -4.0]])
    signal = top_k_of(torch.log_softmax(teacher, -1), 2)
    same_ratio = torch.tensor([[3.0, 2.0, 6.0, 6.0]])  # within the top two nothing changed
    loss = distillation_loss(same_ratio, torch.tensor([0]), signal, objective(forward_kl=1))
    assert loss.item() > 2


def test_a_tail_far_below_float32_keeps_its_value():
    """1 - sum(kept) would be 0 here."""
    logits = torch.tensor([[50.0, 0.0, 0.0]])
    log_q = coarsen_student(logits, torch.tensor([[0]]), 1.0)
    assert log_q[0, 1].item() == pytest.approx(-50 + torch.log(torch.tensor(2.0)).item(), rel=1e-6)


@CASES
@given(sizes, st.sampled_from([0.1, 1.0]))  # the next term of the limit grows with the ratio p / q
def test_jensen_shannon_tends_to_both_divergences(size, spread):
    logits, teacher, _ = make(*size, spread)
    log_p, log_q = torch.log_softmax(teacher.double(), -1), torch.log_softmax(logits.detach().double(), -1)
    small = 1e-7
    near_zero = jensen_shannon(log_p, log_q, small) / small
    near_one = jensen_shannon(log_p, log_q, 1 - small) / small
    torch.testing.assert_close(near_zero, forward_kl(log_p, log_q), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(near_one, reverse_kl(log_p, log_q), rtol=1e-3, atol=1e-5)


@CASES
@given(sizes, spreads, betas)
def test_divergences_are_zero_at_the_teacher_and_never_negative(size, spread, beta):
    logits, teacher, _ = make(*size, spread)
    log_p, log_q = torch.log_softmax(teacher, -1), torch.log_softmax(logits.detach(), -1)
    for weights in (objective(forward_kl=1), objective(reverse_kl=1), objective(jsd=1, jsd_beta=beta)):
        assert (divergence(log_p, log_p, weights).abs() < 1e-5).all()
        assert (divergence(log_p, log_q, weights) > -1e-5).all()


def test_t_squared_keeps_the_gradient_at_high_temperature():
    """Hinton's argument: for T -> infinity the gradient of T^2 KL tends to (z - v) / V for centred logits."""
    logits, teacher, targets = make(3, 10, 0, 1.0)
    with torch.no_grad():
        logits -= logits.mean(-1, keepdim=True)
    teacher = teacher - teacher.mean(-1, keepdim=True)
    loss = distillation_loss(
        logits, targets, torch.log_softmax(teacher / 500, -1), objective(forward_kl=1), temperature=500.0
    )
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient, (logits - teacher) / 10, rtol=0.02, atol=1e-3)


def test_impossible_tokens_give_finite_losses_and_gradients():
    logits = torch.tensor([[0.0, -1e9, 2.0]], requires_grad=True)
    log_p = torch.tensor([[-0.1, float("-inf"), -2.35]])
    for weights in (objective(forward_kl=1), objective(reverse_kl=1), objective(jsd=1)):
        loss = distillation_loss(logits, torch.tensor([0]), log_p, weights)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


def test_cross_entropy_is_torchs():
    logits, _, targets = make(5, 30, 1, 3.0)
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, targets), expected)


def test_shapes_are_asserted():
    signal = TopK(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1), torch.full((2,), LOG_ZERO))
    with pytest.raises(AssertionError):
        cross_entropy(torch.zeros(3, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(AssertionError):
        distillation_loss(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), signal, objective(forward_kl=1))
    with pytest.raises(AssertionError):
        forward_kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(AssertionError):
        distillation_loss(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), None, objective(forward_kl=1))
