"""Distances of the vectors that teacher and student make of a batch's texts: pure functions, one value per text.

Names: B texts, D dimensions. All vectors have unit length.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SCALE = 20.0
"""Of cosines before a softmax: sentence-transformers' default, a temperature of 0.05."""


def embedding_distance(teacher: Tensor, student: Tensor, kind: Literal["cosine", "mse"]) -> Tensor:
    """Distance of the vectors themselves, which have as many dimensions.

    `cosine`: 1 - cos; `mse`: the square of the distance (Reimers and Gurevych 2020, equation 1, but for the mean over
    dimensions: of unit vectors it is twice the cosine's).

    Args:
        teacher, student: [B, D].

    Returns:
        [B] float32.
    """
    assert teacher.shape == student.shape, (teacher.shape, student.shape)
    if kind == "mse":
        return (teacher.float() - student.float()).square().sum(-1)
    return 1 - (teacher.float() * student.float()).sum(-1)


def similarity_divergence(teacher: Tensor, student: Tensor, kind: Literal["kl", "mse"]) -> Tensor:
    """Difference of how alike each text is to the others of its batch.

    `kl`: KL(teacher || student) of the softmax of 20 cosines, in nats (SEED, Fang et al. 2021, with a batch in place
    of its queue); `mse`: mean square difference of the cosines (Tung and Mori 2019, of vectors of unit length).

    Args:
        teacher, student: [B, O] cosines of each text and O others.

    Returns:
        [B] float32.
    """
    assert teacher.shape == student.shape, (teacher.shape, student.shape)
    if kind == "mse":
        return (teacher.float() - student.float()).square().mean(-1)
    log_p, log_q = (torch.log_softmax(SCALE * cosines.float(), -1) for cosines in (teacher, student))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def cosines(vectors: Tensor, begin: int = 0, count: int | None = None) -> Tensor:
    """[n, B - 1]: of n of the vectors [B, d] of unit length, `count` from `begin` on, and all others."""
    some = vectors[begin:] if count is None else vectors[begin : begin + count]
    others = torch.ones(len(some), len(vectors), dtype=torch.bool, device=vectors.device)
    others[torch.arange(len(some)), begin + torch.arange(len(some))] = False
    return (some @ vectors.T)[others].view(len(some), len(vectors) - 1)
