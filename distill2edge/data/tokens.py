"""A tokenizer as the rows meet it: token ids of texts, and the tokens that begin and end them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distill2edge.data.chat_templates import apply_template, chat_template_of
from distill2edge.data.conversation import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "\u2402probe\u2403"  # an assistant message that no chat template contains


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
    """Token ids of each text, nothing cut and nothing padded; `special` adds what the tokenizer itself puts around."""
    if not texts:
        return []
    batch: Any = tokenizer(
        list(texts),
        add_special_tokens=special,
        padding=False,
        truncation=False,
        return_attention_mask=False,
        verbose=False,
    )
    return [list(ids) for ids in batch["input_ids"]]


def wants_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts a BOS in front of plain text."""
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    ids = tokenize(tokenizer, ["a"], special=True)[0]
    return bool(ids) and ids[0] == bos


def end_token_id(tokenizer: PreTrainedTokenizerBase, template: str) -> int | None:
    """The token that ends a response.

    With template `chat`, the special token that the chat template writes after an assistant message (Gemma ends a
    turn with another token than its EOS); otherwise, and where the template writes none, the tokenizer's EOS.
    """
    if template == "chat" and chat_template_of(tokenizer):
        messages = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": _PROBE})
        after = apply_template(tokenizer, Conversation(messages), generation=False).rpartition(_PROBE)
        if after[1]:
            special = set(tokenizer.all_special_ids) | {
                index for index, token in tokenizer.added_tokens_decoder.items() if token.special
            }
            tail = tokenize(tokenizer, [after[2].lstrip()])[0]
            if tail and tail[0] in special:
                return tail[0]
    eos: int | None = tokenizer.eos_token_id
    return eos


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[int, ...]:
    """Tokens at which generation stops: the end of a response and EOS."""
    found = (end_token_id(tokenizer, template), tokenizer.eos_token_id)
    return tuple(dict.fromkeys(token for token in found if token is not None))
