"""Rows to token ids for classifiers: the text with its special tokens, and nothing of the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distill2edge.data.encode import Encoded, Row
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 1024


def encode_texts(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Encoded]:
    """Prompts in a model's tokens. A classifier answers every text, so a longer one is cut, not dropped.

    Args:
        max_length: tokens, special ones included.

    Returns:
        one per row, in order. `id` is the row's own, which does not depend on the vocabulary: a signal cached in the
        teacher's tokens is found again by a student with fewer. `mask` is False throughout: no token is predicted.

    Raises:
        UserError: a length that leaves no room for text.
    """
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if max_length <= special:
        raise UserError(f"{special} of {max_length} tokens are special ones", where="data.max_length", fix="raise it")
    encoded = []
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        batch: Any = tokenizer(
            [row.prompt for row in part],
            truncation=True,
            max_length=max_length,
            padding=False,
            return_attention_mask=False,
            verbose=False,
        )
        for row, ids in zip(part, batch["input_ids"], strict=True):
            encoded.append(Encoded(row.id, list(ids), [False] * len(ids), row.label, row.id))
    return encoded
