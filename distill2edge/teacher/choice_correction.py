"""What is taken off the likelihoods of answers: their length, and what the model says anyway.

Shapes: n texts, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Classes: TypeAlias = NDArray[np.int64]

_FOLDS = 5
_RIDGE = 1.0  # a standard normal prior on each number that is fitted: few texts move it little

CONTENT_FREE = ("N/A", "[MASK]", "none")
"""Texts that say nothing (Zhao et al. 2021, "Calibrate Before Use", section 5, but for the empty one: a text without
tokens is no input)."""


@dataclass(frozen=True)
class Correction:
    """A correction of log p(answer | prompt), summed over the answer's tokens.

    Attributes:
        name: `none`, `contextual`, `batch` or `fitted`.
        lengths: [C] tokens of each answer, by which its log-probability is divided; None leaves the sum.
        prior: [C] log-probabilities that are subtracted.
        scale: by which the rest is multiplied.
    """

    name: str = "none"
    lengths: tuple[int, ...] | None = None
    prior: tuple[float, ...] | None = None
    scale: float = 1.0

    def __call__(self, scores: Floats) -> Floats:
        """Class logits [n, C] of sums of log-probabilities [n, C]."""
        found = scores if self.lengths is None else scores / np.asarray(self.lengths, dtype=np.float32)
        if self.prior is not None:
            found = found - np.asarray(self.prior, dtype=np.float32)
        return np.asarray(found * np.float32(self.scale), dtype=np.float32)

    @property
    def label(self) -> str:
        """For people."""
        return self.name if self.lengths is None else f"{self.name}, per token"

    def as_dict(self) -> dict[str, Any]:
        """For signal.json; `Correction.of` reads it."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Correction:
        """What `as_dict` gave."""
        lengths, prior = facts["lengths"], facts["prior"]
        return cls(facts["name"], lengths and tuple(lengths), prior and tuple(prior), float(facts["scale"]))


def candidates(scores: Floats, empty: Floats, lengths: Sequence[int], names: Sequence[str]) -> list[Correction]:
    """Every correction of the names, with and without that for length where answers differ in it.

    Args:
        scores: [n, C] of the training texts.
        empty: [m, C] after texts without content.
        lengths: [C] tokens of each answer.
        names: of `none`, `contextual`, `batch`.
    """
    sizes = [None] if len(set(lengths)) == 1 else [None, tuple(lengths)]
    found = []
    for per in sizes:
        plain = Correction(lengths=per)
        priors = {"none": None, "contextual": _mean(plain(empty)), "batch": _mean(plain(scores))}
        found += [Correction(name, per, priors[name]) for name in names]
    return found


def fitted(scores: Floats, truth: Classes, lengths: tuple[int, ...] | None = None) -> Correction:
    """A scale and a prior that fit labelled texts best (Platt scaling; Guo et al. 2017, section 4.2, with one scale).

    Args:
        scores: [n, C] sums of log-probabilities.
        truth: [n] classes.
    """
    import torch

    logits = torch.from_numpy(log_softmax(Correction(lengths=lengths)(scores)).astype(np.float64))
    target = torch.from_numpy(truth)
    found = torch.zeros(1 + scores.shape[1], dtype=torch.float64, requires_grad=True)  # log of the scale; the prior
    solver = torch.optim.LBFGS([found], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        solver.zero_grad()
        loss = torch.nn.functional.cross_entropy(found[0].exp() * (logits - found[1:]), target)
        loss = loss + _RIDGE / len(target) * (found**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    solver.step(closure)
    scale, *prior = found.detach().tolist()
    return Correction("fitted", lengths, tuple(prior), float(np.exp(scale)))


def best(corrections: Sequence[Correction], scores: Floats, truth: Classes) -> tuple[Correction, list[dict[str, Any]]]:
    """The correction under which labelled texts are likeliest; what is fitted is tried on texts it has not seen.

    Likelihood and not accuracy: it tells corrections apart on fewer texts, and soft labels are what is learnt from.

    Args:
        scores: [n, C] sums of log-probabilities.
        truth: [n] classes.

    Returns:
        it, and for each correction {correction, accuracy, nll}.
    """
    tried = {each.label: each(scores) for each in corrections}
    found = {each.label: each for each in corrections}
    for lengths in dict.fromkeys(each.lengths for each in corrections):
        whole = fitted(scores, truth, lengths)
        found[whole.label], tried[whole.label] = whole, _held_out(scores, truth, lengths)
    table = []
    for label, logits in tried.items():
        logprob = log_softmax(logits)
        accuracy = float((logprob.argmax(-1) == truth).mean())
        nll = float(-logprob[np.arange(len(truth)), truth].mean())
        table.append({"correction": label, "accuracy": round(accuracy, 6), "nll": round(nll, 6)})
    chosen = min(table, key=lambda each: each["nll"])
    return found[chosen["correction"]], table


def _held_out(scores: Floats, truth: Classes, lengths: tuple[int, ...] | None) -> Floats:
    """[n, C] logits of each text by a correction that is fitted to the others."""
    fold = np.arange(len(truth)) % _FOLDS
    logits = np.empty_like(scores)
    for at in range(_FOLDS):
        out = fold == at
        if out.any():
            kept = fitted(scores[~out], truth[~out], lengths) if (~out).any() else Correction(lengths=lengths)
            logits[out] = kept(scores[out])
    return logits


def log_softmax(logits: Floats) -> Floats:
    """[n, C] log-probabilities."""
    shifted = logits - logits.max(-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def _mean(scores: Floats) -> tuple[float, ...]:
    """[C] log of the mean over texts of the probabilities."""
    return tuple(float(value) for value in np.log(np.exp(log_softmax(scores)).mean(0)))
