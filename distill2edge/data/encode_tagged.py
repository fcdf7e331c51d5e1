"""Texts to token ids for token classifiers: as for classifiers, with the place of each word among the tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from distill2edge.data.encode import in_batches
from distill2edge.data.encode_texts import around
from distill2edge.data.encoded_rows import EncodedRows
from distill2edge.data.examples import Encoded, Row
from distill2edge.data.words import Span, cut_at_word, places_of, words_of
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Placed(NamedTuple):
    """A text in tokens.

    Attributes:
        ids: with the special tokens.
        words: characters of each word.
        places: of each word that is read the token that says its tag; -1 where it has none of its own.
    """

    ids: list[int]
    words: list[Span]
    places: list[int]


def encode_tagged(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Sequence[Encoded]:
    """Texts in a model's tokens. A longer one is cut after its last whole word.

    Args:
        max_length: tokens, special ones included.

    Returns:
        one per row, in order, with `places`; `mask` is False throughout, as in `encode_texts`.

    Raises:
        UserError: as `placed`.
    """
    return EncodedRows(_encoded(rows, tokenizer, max_length))


def _encoded(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[Encoded]:
    for part in in_batches(rows):
        found = placed([row.prompt for row in part], tokenizer, max_length)
        for row, text in zip(part, found, strict=True):
            ids, places = text.ids, tuple(text.places)
            yield Encoded(row.id, ids, [False] * len(ids), -1, row.id, places=places, words=len(text.words))


def placed(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Placed]:
    """Token ids of each text with its special tokens, and the places of its words.

    Raises:
        UserError: a tokenizer that does not say which characters a token stands for, or a length without room.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "this tokenizer does not say which characters a token stands for: it has no tokenizer.json",
            where="teacher.model",
            fix="take a model with tokenizer.json (a fast tokenizer)",
        )
    head, tail = around(tokenizer)
    room = max_length - len(head) - len(tail)
    if room < 1:
        special = len(head) + len(tail)
        raise UserError(f"{special} of {max_length} tokens are special ones", where="data.max_length", fix="raise it")
    if not texts:
        return []
    batch: Any = tokenizer(
        list(texts),
        add_special_tokens=False,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    found = []
    for text, ids, offsets in zip(texts, batch["input_ids"], batch["offset_mapping"], strict=True):
        words = words_of(text)
        kept, places = cut_at_word(ids, places_of(text, words, offsets), room)
        places = [place + len(head) if place >= 0 else place for place in places]
        found.append(Placed([*head, *kept, *tail], words, places))
    return found
