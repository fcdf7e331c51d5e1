"""Two texts to token ids for an encoder: its special tokens around and between them, and the segment of each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from distill2edge.data.tokens import tokenize
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = ("a", "b")

Pair = tuple[str, str]
Tokens = tuple[list[int], list[int] | None]
"""Token ids [L] of two texts, and the segment id [L] of each; None where every one is 0."""


@dataclass(frozen=True)
class PairFrame:
    """What a tokenizer puts around two texts.

    Attributes:
        before, between, after: ids of its special tokens ([CLS], [SEP], [SEP]; RoBERTa has two between).
        types: segment ids of before, the first text, between, the second text, after.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[int, int, int, int, int]

    @property
    def special(self) -> int:
        """Count of special tokens."""
        return len(self.before) + len(self.between) + len(self.after)

    def joined(self, first: Sequence[int], second: Sequence[int]) -> Tokens:
        """Two texts' own tokens as one sequence."""
        parts = (self.before, first, self.between, second, self.after)
        ids = [token for part in parts for token in part]
        types = [kind for part, kind in zip(parts, self.types, strict=True) for _ in part]
        return ids, types if any(types) else None


def pair_frame(tokenizer: PreTrainedTokenizerBase) -> PairFrame:
    """What a tokenizer puts around two texts, as its own call of two texts shows.

    Raises:
        UserError: nothing between them, so that no model could tell where one ends; or a form of another kind.
    """
    first, second = tokenize(tokenizer, _PROBE)
    ids, types = _called(tokenizer, [_PROBE])[0]
    begins = [at for at in range(len(ids)) if ids[at : at + len(first)] == first]
    at = begins[0] if begins else len(ids)
    ends = [to for to in range(at + len(first), len(ids)) if ids[to : to + len(second)] == second]
    if not ends or ends[0] == at + len(first):
        raise UserError(
            "the tokenizer puts nothing between two texts",
            where="data.pair",
            fix="take an encoder whose tokenizer does (BERT, RoBERTa, ...), or write both texts into data.prompt",
        )
    borders = (0, at, at + len(first), ends[0], ends[0] + len(second), len(ids))
    kinds = [set(types[begin:end]) or {0} for begin, end in pairwise(borders)]
    if any(len(each) > 1 for each in kinds):
        raise AssertionError(f"segment ids {types} of {ids}")
    whole = PairFrame(ids[:at], ids[borders[2] : borders[3]], ids[borders[4] :], tuple(each.pop() for each in kinds))  # type: ignore[arg-type]
    assert whole.joined(first, second)[0] == ids
    return whole


def cut_pairs(pairs: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[tuple[Tokens, bool]]:
    """Tokens of each pair with the special ones, and whether it was cut.

    Of one that is too long the longer text is cut first, at its end, as tokenizers do (`longest_first`).

    Args:
        max_length: tokens, special ones included.

    Raises:
        UserError: as `pair_frame`; a length that leaves no room for two texts.
    """
    frame = pair_frame(tokenizer)
    room = max_length - frame.special
    if room < 2:
        what = f"{frame.special} of {max_length} tokens are special ones, and a pair has two texts"
        raise UserError(what, where="data.max_length", fix="raise it")
    first, second = (tokenize(tokenizer, side) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    found = []
    for own, other in zip(first, second, strict=True):
        one, two = shares_of(len(own), len(other), room)
        found.append((frame.joined(own[:one], other[:two]), len(own) + len(other) > room))
    return found


def shares_of(first: int, second: int, room: int) -> tuple[int, int]:
    """Tokens that two texts of these lengths keep where both have `room`: the longer one gives way first."""
    if first + second <= room:
        return first, second
    short = min(first, second, room // 2)
    return (short, room - short) if first <= second else (room - short, short)


def _called(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
    """Ids and segment ids as the tokenizer's own call of two texts gives them."""
    first, second = (list(side) for side in zip(*pairs, strict=True))
    batch = tokenizer(
        first, second, add_special_tokens=True, padding=False, truncation=False, return_token_type_ids=True,
        verbose=False,
    )  # fmt: skip
    return [(list(ids), list(types)) for ids, types in zip(batch["input_ids"], batch["token_type_ids"], strict=True)]
