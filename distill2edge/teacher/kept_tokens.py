"""Which tokens of a distribution a compact signal keeps (`distill.compact_signal`): a sample without bias, or those
that hold most of its mass."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from distill2edge.distill.compact_signal import Kept

if TYPE_CHECKING:
    import torch

BLOCK = 1 << 21
"""Probabilities that are worked on at once: 16 MiB of float64."""

NOTHING = 1e-9
"""A remainder below it is rounding."""

LEAST_TAIL = 2.0**-20
"""Least mass of a tail, as that of `logit_cache.TAIL_FLOOR`: a zero would make the reverse divergence infinite."""


def uniforms(seed: int, example: str, count: int) -> np.ndarray:
    """A number in [0, 1) for each position of an example: of the seed, the example and the position alone.

    So it is the same in whatever pieces the work is done, and after a resume.
    """
    key = int.from_bytes(hashlib.sha256(f"{seed}:{example}".encode()).digest()[:16], "big")
    drawn: np.ndarray = np.random.Philox(key=key).random_raw(count)
    return (drawn >> np.uint64(11)) * 2.0**-53


def sampled(logits: torch.Tensor, sample: int, temperature: float, uniform: np.ndarray) -> Kept:
    """Tokens of about 1 / N and more with their own probability; of the others some, each for an equal part of them.

    Of all weights that are unbiased (for each token E[weight] = p) and as many tokens, these have the least variance
    (Cohen et al. 2009, "Stream sampling for variance-optimal estimation of subset sums": varopt). A position keeps
    m = ceil(sum over tokens of min(1, N p)) of them, so one whose teacher is sure keeps few, and every drawn token of
    the corpus stands for nearly the same mass. The threshold t with sum of min(1, p / t) = m divides own from drawn;
    t <= 1 / N, and no own one is below 1 / (2 N). The drawn are those in which the points (u + j) t of the cumulative
    distribution of the others lie.

    Args:
        logits: [P, V] float32.
        sample: N, at least 2: each position keeps at most N tokens.
        uniform: [P] u, in [0, 1).
    """
    import torch

    rows = max(1, BLOCK // logits.shape[1])
    parts = [
        _sampled(
            logits[at : at + rows] / temperature, sample, torch.from_numpy(uniform[at : at + rows]).to(logits.device)
        )
        for at in range(0, len(logits), rows)
    ]
    return Kept(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _sampled(z: torch.Tensor, sample: int, uniform: torch.Tensor) -> Kept:
    """As `sampled`, of logits at the temperature, [P, V], whose sums fit into memory in float64."""
    import torch

    most, beyond = min(sample, z.shape[1]), z.shape[1]
    z = z - z.amax(-1, keepdim=True)
    p = z.exp()
    total = p.sum(-1, keepdim=True)
    p /= total
    entropy = total[:, 0].log() - (p * z).sum(-1)
    top, index = p.topk(most, -1)
    top = top.double()
    # Beyond the likeliest no token has 1 / N.
    count = (top * sample).clamp(max=1.0).sum(-1, keepdim=True) + sample * (1.0 - top.sum(-1, keepdim=True))
    count = count.sub_(1e-6).ceil_().clamp_(1, most)
    place = torch.arange(most, device=p.device)
    left = 1.0 - (top.cumsum(-1) - top)
    # The last of the count stands for all that is left.
    threshold = torch.where(place < count - 1, left / (count - place).clamp_min(1), torch.inf)
    held = (top <= threshold).double().argmax(-1, keepdim=True)
    own = place < held
    cumulative = p.scatter_(-1, index, torch.where(own, 0.0, top).float()).cumsum(-1, dtype=torch.float64)
    rest = cumulative[:, -1:].clone()
    drawn = torch.where(rest > NOTHING, count - held, torch.zeros_like(count))
    points = (uniform[:, None] + place) * rest / drawn.clamp_min(1)
    found = torch.searchsorted(cumulative, points, right=True).clamp_(max=beyond - 1)
    tokens = torch.cat([torch.where(own, index, beyond), torch.where(place < drawn, found, beyond)], -1)
    stands = torch.cat([top, (rest / drawn.clamp_min(1)).expand(-1, most)], -1)
    tokens, order = tokens.sort(-1)
    kept = tokens < beyond
    kept[:, 1:] &= tokens[:, 1:] != tokens[:, :-1]  # two points in one token, by rounding
    numbers = (
        tokens[kept],
        kept.sum(-1),
        stands.gather(-1, order)[kept].float(),
        (order < most)[kept],
        rest[:, 0].log().where(drawn[:, 0] > 0, -torch.inf).float(),
        entropy,
    )
    return Kept(*(each.cpu().numpy() for each in numbers))


def by_mass(logits: torch.Tensor, top_k: int, mass: float, temperature: float) -> Kept:
    """The likeliest tokens that hold a share of the mass, at most k, and the mass of all others.

    Args:
        logits: [P, V] float32.
        mass: in (0, 1).
    """
    import torch

    log_p = torch.log_softmax(logits / temperature, -1)
    top, index = log_p.topk(min(top_k, logits.shape[1]), -1)
    p = top.double().exp()
    kept = p.cumsum(-1) - p < mass
    rest = (1.0 - (p * kept).sum(-1)).clamp_min(LEAST_TAIL)
    tokens, order = torch.where(kept, index, logits.shape[1]).sort(-1)
    within = tokens < logits.shape[1]
    numbers = (
        tokens[within],
        kept.sum(-1),
        p.gather(-1, order)[within].float(),
        torch.ones_like(tokens, dtype=torch.bool)[within],
        rest.log().float(),
        top.masked_fill(~kept, 0.0).amin(-1),
    )
    return Kept(*(each.cpu().numpy() for each in numbers))
