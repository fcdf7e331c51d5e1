"""Whose tokens a signal is over: the teacher's own, which the student shares, or a student's of another tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill2edge.intake.vocabularies import vocabulary_hash
from distill2edge.models.checkpoint import load_tokenizer

if TYPE_CHECKING:
    import torch

    from distill2edge.data.examples import Encoded


class Tokens(Protocol):
    """Whose tokens the distributions are over, and what the teacher reads.

    Attributes:
        vocabulary: hash of token -> id, of the tokens that the shards name.
        settings: of the shards, beside those of every signal.
    """

    vocabulary: str
    settings: dict[str, str]

    def of(self, examples: Sequence[Encoded]) -> Tokens:
        """The same, with what it knows of these examples alone: for a process that has only them."""

    def size(self, rows: int) -> int:
        """Ids that a distribution names, of a teacher whose embedding has so many rows."""

    def wide(self, rows: int) -> bool:
        """Whether those ids need more than 16 bits."""

    def read(self, example: Encoded) -> Encoded | None:
        """What the teacher reads of an example; None where it says nothing of it."""

    def compress(
        self, example: Encoded, logits: torch.Tensor | None, k: int, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, float]]:
        """As `compress`, at the example's supervised positions; and sums over them, for `facts`.

        Args:
            logits: [supervised tokens of what is read, rows] float32; None where nothing is.
        """

    def facts(self, sums: dict[str, float]) -> dict[str, Any]:
        """For signal.json; `sums` over all examples."""

    def known(self, positions: int) -> int:
        """At how many of the positions the teacher says something."""


class OwnTokens:
    """As `Tokens`, where teacher and student have the same: the examples are read as they are."""

    def __init__(self, model_dir: Path) -> None:
        self.vocabulary, self.settings = vocabulary_hash(load_tokenizer(model_dir)), {}

    def of(self, examples: Sequence[Encoded]) -> OwnTokens:
        """As `Tokens.of`: it knows nothing of any."""
        return self

    def size(self, rows: int) -> int:
        """As `Tokens.size`."""
        return rows

    def wide(self, rows: int) -> bool:
        """As `Tokens.wide`."""
        return rows > 1 << 16

    def read(self, example: Encoded) -> Encoded | None:
        """As `Tokens.read`."""
        return example

    def compress(
        self, example: Encoded, logits: torch.Tensor | None, k: int, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, float]]:
        """As `Tokens.compress`."""
        assert logits is not None
        return *compress(logits, k, temperature), {}

    def facts(self, sums: dict[str, float]) -> dict[str, Any]:
        """As `Tokens.facts`."""
        return {}

    def known(self, positions: int) -> int:
        """As `Tokens.known`."""
        return positions


def compress(logits: torch.Tensor, top_k: int, temperature: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Top-k of each distribution.

    Args:
        logits: [P, V] float32.

    Returns:
        index [P, k] int64, descending by probability; logprob [P, k] float32 at temperature 1; shift [P] float32.
    """
    import torch

    z, index = torch.topk(logits, min(top_k, logits.shape[-1]), dim=-1)
    lse = torch.logsumexp(logits, dim=-1)
    return index, z - lse[:, None], shift_of(logits, lse, temperature)


def shift_of(logits: torch.Tensor, lse: torch.Tensor, temperature: float) -> torch.Tensor:
    """lse(z) / T - lse(z / T) [P] of logits z [P, V], whose log-sum-exp is known: exactly 0 at T = 1."""
    import torch

    return lse / temperature - (lse if temperature == 1 else torch.logsumexp(logits / temperature, dim=-1))
