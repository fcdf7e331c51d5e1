"""Losses of vectors against plain float64 formulas: value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill2edge.distill.embedding_losses import cosines, embedding_distance, similarity_divergence


def draw(texts: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(texts, width, generator=generator), dim=-1)


def plain_cosines(vectors: Tensor) -> Tensor:
    """[B, B - 1] in float64, one pair at a time."""
    rows = [torch.stack([one @ other for j, other in enumerate(vectors) if j != i]) for i, one in enumerate(vectors)]
    return torch.stack(rows)


def assert_same(ours: Tensor, leaf: Tensor, reference: Tensor, double: Tensor) -> None:
    torch.testing.assert_close(ours.double(), reference, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(ours.sum(), leaf)
    (wanted,) = torch.autograd.grad(reference.sum(), double)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_the_distance_of_vectors(kind: str) -> None:
    teacher, student = draw(5, 8, 0), draw(5, 8, 1).requires_grad_()
    double = student.detach().double().requires_grad_()
    dot = (teacher.double() * double).sum(-1)
    wanted = 1 - dot if kind == "cosine" else (teacher.double() ** 2).sum(-1) - 2 * dot + (double**2).sum(-1)
    assert_same(embedding_distance(teacher, student, kind), student, wanted, double)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_the_distance_of_likeness_takes_other_widths(kind: str) -> None:
    teacher, student = draw(6, 8, 2), draw(6, 3, 3).requires_grad_()
    double = student.detach().double().requires_grad_()
    theirs, ours = plain_cosines(teacher.double()), plain_cosines(double)
    if kind == "kl":
        p, q = torch.softmax(20 * theirs, -1), torch.softmax(20 * ours, -1)
        wanted = (p * (p.log() - q.log())).sum(-1)
    else:
        wanted = ((theirs - ours) ** 2).mean(-1)
    found = similarity_divergence(cosines(teacher), cosines(student), kind)  # type: ignore[arg-type]
    assert_same(found, student, wanted, double)


def test_a_student_that_is_its_teacher_loses_nothing() -> None:
    vectors = draw(4, 8, 4)
    turned = vectors @ torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(5)))[0]
    assert embedding_distance(vectors, vectors, "cosine").abs().max() < 1e-6
    # A rotation moves every vector and changes no likeness.
    assert embedding_distance(vectors, turned, "cosine").min() > 0.05
    assert similarity_divergence(cosines(vectors), cosines(turned), "kl").abs().max() < 1e-5
