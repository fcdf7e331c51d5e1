"""Teacher and student whose embeddings have different numbers of rows: padding beyond the tokenizer's tokens."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_family
from torch import Tensor

from distill2edge.distill import chunked
from distill2edge.distill.chunked import chunked_loss
from distill2edge.distill.logit_cache import TAIL_FLOOR
from distill2edge.distill.losses import distillation_loss, top_k_of
from distill2edge.distill.objective import objective_of
from distill2edge.errors import UserError
from distill2edge.recipe.schema import Loss
from distill2edge.verify.fidelity import kl_divergence

EVERYTHING = Loss(ce=0.3, forward_kl=0.7, reverse_kl=0.5, jsd=1.1, jsd_beta=0.3)
SIZES = [(48, 37, 5), (48, 37, 40), (48, 37, 37), (48, 37, 48), (48, 47, 47), (30, 37, 5), (30, 37, 30), (37, 37, 37)]


def by_definition(logits: Tensor, targets: Tensor, log_p: Tensor, k: int, weights: Loss, temperature: float) -> Tensor:
    """The loss position by position in float64: events are the k tokens that the student has, and all the rest."""
    total = logits.new_zeros(())
    for z, target, row in zip(logits, targets, log_p.to(logits.dtype), strict=True):
        q = torch.log_softmax(z / temperature, -1).exp()
        kept = [int(t) for t in row.topk(k).indices if t < len(z)]
        p_kept = torch.stack([row[t].exp() for t in kept]) if kept else row.new_zeros(0)
        q_kept = torch.stack([q[t] for t in kept]) if kept else q.new_zeros(0)
        if len(kept) < len(z):
            p = torch.cat([p_kept, (1 - p_kept.sum()).clamp_min(TAIL_FLOOR)[None]])
            q = torch.cat([q_kept, (1 - q_kept.sum())[None]])
        else:  # nothing is left that the student could give to the rest
            p, q = p_kept / p_kept.sum(), q_kept
        p = p.clamp_min(1e-300)
        m = weights.jsd_beta * p + (1 - weights.jsd_beta) * q

        def kl(a: Tensor, b: Tensor) -> Tensor:
            return (a * (a.log() - b.log())).sum()

        jsd = weights.jsd_beta * kl(p, m) + (1 - weights.jsd_beta) * kl(q, m)
        compared = weights.forward_kl * kl(p, q) + weights.reverse_kl * kl(q, p) + weights.jsd * jsd
        total = total - weights.ce * torch.log_softmax(z, -1)[target] + temperature**2 * compared
    return total


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("theirs", "ours", "k"), SIZES)
def test_ids_beyond_the_students_rows_are_its_tail(theirs: int, ours: int, k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(theirs * 1000 + ours + k)
    scores = torch.randn(7, theirs, generator=generator) * 1.5
    padding = torch.tensor([0.0, 3.0, -3.0, 6.0, 1.0, 2.0, 8.0])  # some positions name nothing but padding
    scores[:, ours:] += padding[:, None]
    log_p = torch.log_softmax(scores.double(), -1)
    targets = torch.randint(ours, (7,), generator=generator)
    x = torch.randn(7, 8, generator=generator)
    w = torch.randn(ours, 8, generator=generator)

    exact = [t.double().requires_grad_() for t in (x, w)]
    wanted = by_definition(exact[0] @ exact[1].T, targets, log_p, k, EVERYTHING, temperature)
    gradients = torch.autograd.grad(wanted, exact)

    plain = [t.clone().requires_grad_() for t in (x, w)]
    signal = top_k_of(log_p.float(), k)
    signal = signal._replace(log_tail=signal.log_tail.clamp_min(math.log(TAIL_FLOOR)))  # as the cache gives it
    loss = distillation_loss(plain[0] @ plain[1].T, targets, signal, objective_of(EVERYTHING), temperature).sum()
    for found, other in zip(torch.autograd.grad(loss, plain), gradients, strict=True):
        torch.testing.assert_close(found.double(), other, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-4, atol=1e-4)

    for block in (1, chunked.BLOCK):
        pieces = [t.clone().requires_grad_() for t in (x, w)]
        old, chunked.BLOCK = chunked.BLOCK, block
        try:
            loss, _ = chunked_loss(
                [tuple(pieces)], targets, signal, objective_of(EVERYTHING), temperature=temperature, chunk=3
            )
        finally:
            chunked.BLOCK = old
        loss.backward()
        torch.testing.assert_close(loss.double(), wanted, rtol=1e-4, atol=1e-4)
        for piece, other in zip(pieces, gradients, strict=True):
            torch.testing.assert_close(piece.grad.double(), other, rtol=2e-4, atol=2e-4)


def test_fidelity_is_compared_on_the_ids_that_both_have() -> None:
    rng = np.random.default_rng(0)
    p, q = (rng.normal(size=(5, width)) for width in (48, 37))
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    given = p[:, :37] - np.log(np.exp(p[:, :37]).sum(-1, keepdims=True))
    np.testing.assert_allclose(
        kl_divergence(log_p.astype(np.float32), log_q.astype(np.float32)),
        (np.exp(given) * (given - log_q)).sum(-1),
        rtol=1e-5,
    )
    np.testing.assert_allclose(  # what the shorter one lacks has no probability in it: an exact divergence
        kl_divergence(log_q.astype(np.float32), log_p.astype(np.float32)),
        (np.exp(log_q) * (log_q - log_p[:, :37])).sum(-1),
        rtol=1e-5,
    )


def test_rows_that_stand_for_nothing_are_never_written(tmp_path: Path) -> None:
    """On-policy: a student with more rows than its teacher must not draw what the teacher can't read."""
    from transformers import AutoTokenizer

    from distill2edge.generation.writers import Sampling, open_writer

    model = tiny_family(tmp_path, "qwen2", vocab_size=512, tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[400:] *= 40  # the likeliest, unless they are left out
    model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    sampling = Sampling(max_new_tokens=12, temperature=1.0)
    for tokens, most in ((None, 512), (400, 400)):
        writer = open_writer(tmp_path, tokenizer, sampling, (2,), "transformers", None, tokens)
        drawn = [token for answer in writer([[5, 6, 7], [9]], 0) for token in answer]
        assert (max(drawn) < 400) == (most == 400)


def test_an_id_beyond_the_teachers_rows_is_named(tmp_path: Path) -> None:
    from distill2edge.data.examples import Encoded
    from distill2edge.recipe.schema import LogitsSignal
    from distill2edge.teacher.logits import cache_logits
    from distill2edge.util.progress import SilentProgress

    tiny_family(tmp_path / "teacher", "qwen2")
    rows = [Encoded("a", [1, 2, 400, 3], [False, True, True, True])]
    with pytest.raises(UserError, match=r"token id 400.*400 rows"):
        cache_logits(tmp_path / "teacher", rows, LogitsSignal(kind="logits"), tmp_path / "out", SilentProgress())
