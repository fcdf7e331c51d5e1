"""Texts to token ids for classifiers: the text (or both) with its special tokens, and nothing of the label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distill2edge.data.conversation import plain_prompt
from distill2edge.data.encode import in_batches
from distill2edge.data.encoded_rows import EncodedRows
from distill2edge.data.examples import Encoded, Row, row_id
from distill2edge.data.text_pairs import Tokens, cut_pairs
from distill2edge.data.tokens import tokenize
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "a"


def encode_texts(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, counts: Counter[str] | None = None
) -> Sequence[Encoded]:
    """Prompts (and what they are paired with) in a model's tokens. A classifier answers every text, so a longer one is
    cut, not dropped.

    Args:
        max_length: tokens, special ones included.
        counts: filled with `rows` and `cut` (pairs that are longer).

    Returns:
        one per row, in order. `id` is the row's own, which does not depend on the vocabulary: a signal cached in the
        teacher's tokens is found again by a student with fewer. `mask` is False throughout: no token is predicted.

    Raises:
        UserError: a length that leaves no room for text; a tokenizer that reads no pairs.
    """
    counts = Counter() if counts is None else counts
    encoded = EncodedRows(_encoded(rows, tokenizer, max_length, counts))
    counts["rows"] += len(rows)
    return encoded


def _encoded(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, counts: Counter[str]
) -> Iterator[Encoded]:
    for part in in_batches(rows):
        for row, (ids, types) in zip(part, _tokens(part, tokenizer, max_length, counts), strict=True):
            query = "" if row.pair is None else row_id(plain_prompt(row.prompt), "")
            yield Encoded(row.id, ids, [False] * len(ids), row.label, row.id, types=types, query=query)


def _tokens(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, counts: Counter[str]
) -> list[Tokens]:
    pairs = [(row.prompt, row.pair) for row in rows if row.pair is not None]
    if not pairs:
        return [(ids, None) for ids in cut_texts([row.prompt for row in rows], tokenizer, max_length)]
    found = cut_pairs(pairs, tokenizer, max_length)
    counts["cut"] += sum(cut for _, cut in found)
    return [tokens for tokens, _ in found]


def cut_texts(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    """Token ids of each text with its special tokens; of a longer text the first tokens, and what stands after it.

    Args:
        max_length: tokens, special ones included.

    Raises:
        UserError: a length that leaves no room for text.
    """
    head, tail = around(tokenizer)
    if max_length <= len(head) + len(tail):
        raise UserError(
            f"{len(head) + len(tail)} of {max_length} tokens are special ones", where="data.max_length", fix="raise it"
        )
    whole = tokenize(tokenizer, texts, special=True)
    return [ids if len(ids) <= max_length else ids[: max_length - len(tail)] + tail for ids in whole]


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before a text and after it ([CLS] and [SEP])."""
    (bare,), (whole,) = tokenize(tokenizer, [_PROBE]), tokenize(tokenizer, [_PROBE], special=True)
    extra = len(whole) - len(bare)
    before = next((at for at in range(extra + 1) if whole[at : at + len(bare)] == bare), extra)
    return whole[:before], whole[before + len(bare) :]
