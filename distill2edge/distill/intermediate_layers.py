"""Distances of intermediate layers, pair by pair: pure functions, one value per text.

Names: B texts, L tokens, D width, H heads. `mask` [B, L] is 1 at real tokens. Values are means over layers, real tokens
and heads within a text, so a text counts the same whatever its length and its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

_EPSILON = 1e-9  # attention of a masked key is an exact 0


def hidden_distance(
    student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, kind: Literal["cosine", "mse"]
) -> Tensor:
    """Distance of hidden states.

    `cosine`: 1 - cos (DistilBERT's third term, Sanh et al. 2019, section 3, there on the last layer alone);
    `mse`: mean square over the width (TinyBERT, Jiao et al. 2020, equation 8, for equal widths).

    Args:
        student, teacher: for each pair of layers [B, L, D].
        mask: [B, L].

    Returns:
        [B] float32.
    """
    assert len(student) == len(teacher) > 0, (len(student), len(teacher))
    total = torch.zeros(mask.shape[0], device=mask.device)
    for ours, theirs in zip(student, teacher, strict=True):
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        a, b = ours.float(), theirs.float()
        each = 1 - functional.cosine_similarity(a, b, dim=-1) if kind == "cosine" else (a - b).square().mean(-1)
        total = total + _over_tokens(each, mask)
    return total / len(student)


def attention_divergence(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """KL(teacher || student) of the attention of each real query (MobileBERT, Sun et al. 2020, section 3.3).

    Args:
        student, teacher: for each pair of layers [B, H, L, L] probabilities over keys.
        mask: [B, L].

    Returns:
        [B] float32, nats.
    """
    assert len(student) == len(teacher) > 0, (len(student), len(teacher))
    total = torch.zeros(mask.shape[0], device=mask.device)
    for ours, theirs in zip(student, teacher, strict=True):
        assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
        p, q = theirs.float(), ours.float()
        each = (p * ((p + _EPSILON).log() - (q + _EPSILON).log())).sum(-1).mean(1)
        total = total + _over_tokens(each, mask)
    return total / len(student)


def _over_tokens(values: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(values.dtype)
    return (values * weight).sum(-1) / weight.sum(-1)
