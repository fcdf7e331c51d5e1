"""The chunked loss against the dense reference: value, and gradient of every input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import objective
from torch import Tensor

from distill2edge.distill import chunked
from distill2edge.distill.chunked import Head, chunked_loss
from distill2edge.distill.losses import Sampled, Teacher, cross_entropy, distillation_loss, top_k_of

EVERYTHING = objective(ce=0.3, forward_kl=0.7, reverse_kl=0.5, jsd=1.1, jsd_beta=0.3)


def make(seed: int, positions: int = 11, vocabulary: int = 37, width: int = 8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    terms = [(draw(positions, width), draw(vocabulary, width)), (draw(positions, 3), draw(vocabulary, 3))]
    log_p = torch.log_softmax(torch.randn(positions, vocabulary, generator=generator) * 2, -1)
    targets = torch.randint(vocabulary, (positions,), generator=generator)
    return terms, log_p, targets


def dense(terms, targets, teacher: Teacher | None, weights, temperature, head: Head) -> tuple[Tensor, list[Tensor]]:
    copies = [(x.detach().float().requires_grad_(), w.detach().float().requires_grad_()) for x, w in terms]
    logits = head.scale * sum(x @ w.T for x, w in copies)
    if head.softcap:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    loss = distillation_loss(logits, targets, teacher, weights, temperature).sum()
    return loss, list(torch.autograd.grad(loss, [t for pair in copies for t in pair]))


def flat(terms) -> list[Tensor]:
    return [tensor for pair in terms for tensor in pair]


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["ce", "dense", "top-k", "all"]),
    st.sampled_from([1.0, 2.0]),
    st.integers(1, 14),
    st.sampled_from([Head(), Head(0.5), Head(1.0, 10.0), Head(0.25, 5.0)]),
    st.sampled_from([1, 64, 1 << 20]),
)
def test_equals_the_dense_reference(seed, kind, temperature, chunk, head, block):
    terms, log_p, targets = make(seed)
    weights = objective(ce=0.8) if kind == "ce" else EVERYTHING
    teacher = {"ce": None, "dense": log_p, "top-k": top_k_of(log_p, 5), "all": top_k_of(log_p, 37)}[kind]
    old, chunked.BLOCK = chunked.BLOCK, block
    try:
        loss, ce = chunked_loss(terms, targets, teacher, weights, temperature=temperature, chunk=chunk, head=head)
    finally:
        chunked.BLOCK = old
    reference, gradients = dense(terms, targets, teacher, weights, temperature, head)
    torch.testing.assert_close(loss, reference, rtol=1e-4, atol=1e-4)
    plain, _ = dense(terms, targets, None, objective(ce=1.0), 1.0, head)
    torch.testing.assert_close(ce, plain.detach(), rtol=1e-4, atol=1e-4)
    for ours, expected in zip(torch.autograd.grad(loss, flat(terms)), gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def some_sample(log_p: Tensor, seed: int) -> Sampled:
    """Of each position four tokens with any weights; one is beyond the vocabulary, one fills up."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.stack([torch.randperm(log_p.shape[1], generator=generator)[:4] for _ in log_p])
    tokens[:, 2], tokens[0, 0] = 0, 1000
    weight = torch.rand(tokens.shape, generator=generator)
    weight[:, 2] = 0.0
    return Sampled(tokens, weight, -(log_p.exp() * log_p).sum(-1))


@settings(max_examples=40)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([1.0, 2.0]),
    st.sampled_from([Head(), Head(0.25, 5.0)]),
    st.sampled_from([1, 1 << 20]),
)
def test_a_sample_equals_the_dense_reference(seed, ce, temperature, head, block):
    terms, log_p, targets = make(seed)
    weights, teacher = objective(ce=ce, forward_kl=0.7), some_sample(log_p, seed)
    old, chunked.BLOCK = chunked.BLOCK, block
    try:
        loss, _ = chunked_loss(terms, targets, teacher, weights, temperature=temperature, chunk=4, head=head)
    finally:
        chunked.BLOCK = old
    reference, gradients = dense(terms, targets, teacher, weights, temperature, head)
    torch.testing.assert_close(loss, reference, rtol=1e-4, atol=1e-4)
    for ours, expected in zip(torch.autograd.grad(loss, flat(terms)), gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["top-k", "all", "sample"])
def test_a_cross_entropy_of_no_weight_takes_nothing_and_is_still_told(kind, temperature):
    """Bit by bit: what is left out of the work was multiplied by zero."""
    terms, log_p, targets = make(5)
    teacher = {"top-k": top_k_of(log_p, 5), "all": top_k_of(log_p, 37), "sample": some_sample(log_p, 5)}[kind]

    def grown(ce: float) -> list[Tensor]:
        weights = objective(ce=0, forward_kl=1.0)._replace(ce=ce)
        loss, told = chunked_loss(terms, targets, teacher, weights, temperature=temperature)
        return [told, *torch.autograd.grad(loss, flat(terms))]

    for without, least in zip(grown(0.0), grown(1e-38), strict=True):
        assert torch.equal(without, least)


def test_gradient_is_scaled_by_what_follows():
    terms, log_p, targets = make(1)
    loss, _ = chunked_loss(terms, targets, log_p, EVERYTHING, chunk=4)
    once = torch.autograd.grad(loss, flat(terms), retain_graph=True)
    scaled = torch.autograd.grad(loss / 7, flat(terms))
    for a, b in zip(once, scaled, strict=True):
        torch.testing.assert_close(a / 7, b)


def test_bfloat16_products_with_a_float32_loss():
    """Within the rounding of bfloat16 logits of a float32 reference; a loss summed in bfloat16 would be off by 1%."""
    terms, log_p, targets = make(2, positions=300, vocabulary=500, dtype=torch.bfloat16)
    signal = top_k_of(log_p, 20)
    loss, _ = chunked_loss(terms, targets, signal, EVERYTHING, temperature=2.0, chunk=64)
    reference, gradients = dense(terms, targets, signal, EVERYTHING, 2.0, Head())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(reference.item(), rel=1e-3)
    for ours, expected in zip(torch.autograd.grad(loss, flat(terms)), gradients, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - expected).norm() < 0.01 * expected.norm()


def test_autocast_around_it_changes_nothing():
    terms, log_p, targets = make(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = chunked_loss(terms, targets, log_p, EVERYTHING)
    outside, _ = chunked_loss(terms, targets, log_p, EVERYTHING)
    assert inside.item() == outside.item()


def test_frozen_head_gets_no_gradient_and_no_grad_skips_it():
    terms, log_p, targets = make(4)
    terms = [(terms[0][0], terms[0][1].detach())]
    loss, _ = chunked_loss(terms, targets, log_p, EVERYTHING)
    loss.backward()
    assert terms[0][0].grad is not None
    assert terms[0][1].grad is None
    with torch.no_grad():
        value, _ = chunked_loss(terms, targets, log_p, EVERYTHING)
    assert value.item() == loss.item()
    assert not value.requires_grad


def test_logits_of_one_chunk_exist_at_a_time(monkeypatch):
    seen: list[int] = []
    project = chunked._project

    def watch(xs, ws):
        logits = project(xs, ws)
        seen.append(len(logits))
        return logits

    monkeypatch.setattr(chunked, "_project", watch)
    terms, log_p, targets = make(5)
    chunked_loss(terms, targets, log_p, EVERYTHING, chunk=4)
    assert seen == [4, 4, 3]


def test_a_student_certain_of_one_token_gives_finite_gradients():
    """The tail underflows to nothing."""
    hidden = torch.tensor([[300.0]], requires_grad=True)
    head = torch.tensor([[1.0], [0.0], [-1.0]])
    signal = top_k_of(torch.log(torch.tensor([[0.5, 0.3, 0.2]])), 1)
    for weights in (objective(forward_kl=1), objective(reverse_kl=1), objective(jsd=1)):
        loss, _ = chunked_loss([(hidden, head)], torch.tensor([0]), signal, weights)
        (gradient,) = torch.autograd.grad(loss, hidden)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_cross_entropy_alone_is_torchs_gradient():
    terms, _, targets = make(6)
    loss, _ = chunked_loss(terms, targets, None, objective(ce=1.0), chunk=3)
    logits = sum(x @ w.T for x, w in terms)
    torch.testing.assert_close(loss, cross_entropy(logits, targets).sum())
