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

CONTENT_FREE = ("N/A", "[MASK]", "none")
"""Texts that say nothing (Zhao et al. 2021, "Calibrate Before Use", section 5, but for the empty one: a text without
tokens is no input)."""


@dataclass(frozen=True)
class Correction:
    """A correction of log p(answer | prompt), summed over the answer's tokens.

    Attributes:
        name: `none`, `contextual` or `batch`.
        lengths: [C] tokens of each answer, by which its log-probability is divided; None leaves the sum.
        prior: [C] log-probabilities that are subtracted.
    """

    name: str = "none"
    lengths: tuple[int, ...] | None = None
    prior: tuple[float, ...] | None = None

    def __call__(self, scores: Floats) -> Floats:
        """Class logits [n, C] of sums of log-probabilities [n, C]."""
        found = scores if self.lengths is None else scores / np.asarray(self.lengths, dtype=np.float32)
        if self.prior is None:
            return found
        return found - np.asarray(self.prior, dtype=np.float32)

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
        return cls(facts["name"], lengths and tuple(lengths), prior and tuple(prior))


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


def best(
    corrections: Sequence[Correction], scores: Floats, truth: NDArray[np.int64]
) -> tuple[Correction, list[dict[str, Any]]]:
    """The correction that is right most often on labelled texts, the likelier one of two that are as good.

    Args:
        scores: [n, C] sums of log-probabilities.
        truth: [n] classes.

    Returns:
        it, and for each correction {label, accuracy, nll}.
    """
    table = []
    for each in corrections:
        logprob = log_softmax(each(scores))
        accuracy = float((logprob.argmax(-1) == truth).mean())
        nll = float(-logprob[np.arange(len(truth)), truth].mean())
        table.append({"correction": each.label, "accuracy": round(accuracy, 6), "nll": round(nll, 6)})
    order = sorted(range(len(table)), key=lambda at: (-table[at]["accuracy"], table[at]["nll"]))
    return corrections[order[0]], table


def log_softmax(logits: Floats) -> Floats:
    """[n, C] log-probabilities."""
    shifted = logits - logits.max(-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def _mean(scores: Floats) -> tuple[float, ...]:
    """[C] log of the mean over texts of the probabilities."""
    return tuple(float(value) for value in np.log(np.exp(log_softmax(scores)).mean(0)))
