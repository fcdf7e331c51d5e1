"""Pairs of source and target for encoder-decoders, in the same `Encoded` rows as every other task.

`ids` holds the source's tokens and then the target's; the mask supervises the target, so `prompt_length` is where the
source ends. The start token of the decoder is not part of a row: runtimes and trainer put it in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distill2edge.data.encode import in_batches, none_left, unencodable
from distill2edge.data.encoded_rows import EncodedRows
from distill2edge.data.examples import Encoded, Row, example_id
from distill2edge.data.tokens import tokenize
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_sources(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each source as the tokenizer itself writes them (T5 puts its end token after the text).

    Raises:
        UserError: a text without tokens.
    """
    found = tokenize(tokenizer, texts, special=True)
    for text, ids in zip(texts, found, strict=True):
        if not ids:
            raise UserError(f"the source {text!r} has no tokens", where="data.prompt", fix="leave empty rows out")
    return found


def encode_targets(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each target, the end token last and once; no start token."""
    end = tokenizer.eos_token_id
    return [[*ids, end] if end is not None else ids for ids in tokenize(tokenizer, texts, special=False)]


def encode_pairs(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, *, counts: Counter[str] | None = None
) -> Sequence[Encoded]:
    """Tokens and masks of rows, in order; left out are pairs of more than `max_length` tokens together, and those
    whose target the tokenizer cannot encode.

    Args:
        counts: filled with `rows`, `too_long`, `empty`, `unencodable` and `supervised_tokens`.

    Raises:
        UserError: no row is left.
    """
    counts = Counter() if counts is None else counts
    encoded = EncodedRows(_kept(rows, tokenizer, max_length, counts))
    counts["rows"] += len(rows)
    if rows and not encoded:
        raise none_left(counts, max_length, "raise data.max_length: it counts source and target together")
    return encoded


def _kept(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, counts: Counter[str]
) -> Iterator[Encoded]:
    for batch in in_batches(rows):
        sources = tokenize(tokenizer, [row.prompt for row in batch], special=True)
        targets = encode_targets([row.response for row in batch], tokenizer)
        for row, source, target in zip(batch, sources, targets, strict=True):
            if not source or not target:
                counts["empty"] += 1
            elif unencodable(tokenizer, target):
                counts["unencodable"] += 1
            elif len(source) + len(target) > max_length:
                counts["too_long"] += 1
            else:
                ids, mask = source + target, [False] * len(source) + [True] * len(target)
                counts["supervised_tokens"] += len(target)
                yield Encoded(example_id(ids, mask), ids, mask, row.label, row.id)


def pair_choices(choices: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of each choice as a target, without the end token; the same for every row.

    Raises:
        UserError: a choice without tokens.
    """
    found = tokenize(tokenizer, choices, special=False)
    for choice, ids in zip(choices, found, strict=True):
        if not ids:
            raise UserError(f"choice {choice!r} has no tokens", where="data.choices", fix="give it a text")
    return found
