"""How tokens are spelt: the bytes of text that each stands for, so that two vocabularies can be compared.

Read of byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM) and of SentencePiece (Llama 2, Gemma, T5); what a decoder has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill2edge.data.tokens import end_token_id
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPECIAL = b"\xff"
"""Begins the spelling of what stands for no text. UTF-8 has no such byte; a token of that byte alone has no more."""
END = SPECIAL + b"<end>"
"""Spelling of the token that ends a response, whatever a tokenizer calls it."""

_BLANK = "\u2581"  # what SentencePiece writes for a space


@dataclass(frozen=True)
class Spelling:
    """The tokens of one tokenizer.

    Attributes:
        tokens: bytes of each token, by id, none of them empty.
    """

    tokens: tuple[bytes, ...]

    def text(self, ids: list[int]) -> bytes:
        """What the tokens spell one after another."""
        return b"".join(self.tokens[index] for index in ids)


def spelling_of(tokenizer: PreTrainedTokenizerBase, template: str, where: str = "signal.align") -> Spelling:
    """The spelling of every token.

    Args:
        template: as `data.template`, which says what ends a response.
        where: the recipe's key, for errors.

    Raises:
        UserError: a tokenizer of another kind, whose tokens do not say where the spaces are.
    """
    vocabulary, end = tokenizer.get_vocab(), end_token_id(tokenizer, template)
    added = tokenizer.added_tokens_decoder
    spell = _speller(tokenizer, where)
    tokens = [SPECIAL + b"#%d" % index for index in range(max(vocabulary.values()) + 1)]
    for token, index in vocabulary.items():
        if index == end:
            tokens[index] = END
        elif index in added:
            raw = added[index].content.encode("utf-8", "surrogatepass")
            tokens[index] = SPECIAL + raw if added[index].special else raw or tokens[index]
        else:
            tokens[index] = spell(token) or tokens[index]
    return Spelling(tuple(tokens))


def _speller(tokenizer: PreTrainedTokenizerBase, where: str) -> Any:
    """The function from a token, as the vocabulary writes it, to its bytes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spec = {} if backend is None else json.loads(backend.to_str())
    parts = [part for name in ("pre_tokenizer", "decoder", "normalizer") for part in _parts(spec.get(name))]
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        return _of_byte_level
    if "Metaspace" in kinds or any(_BLANK in json.dumps(part, ensure_ascii=False) for part in parts):
        return _of_sentencepiece
    raise UserError(
        f"the tokens of a {spec.get('model', {}).get('type', type(tokenizer).__name__)} tokenizer do not say where the "
        "spaces are, so the text of two tokenizers cannot be matched",
        where=where,
        fix="use signal: {kind: text}, or models whose tokenizers are byte-level BPE or SentencePiece",
    )


def _parts(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A step of a tokenizer.json, and those that it is a sequence of."""
    if step is None:
        return
    yield step
    for name in ("pretokenizers", "decoders", "normalizers"):
        for inner in step.get(name) or ():
            yield from _parts(inner)


def _byte_alphabet() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}


_BYTES: dict[str, int] = {}


def _of_byte_level(token: str) -> bytes:
    if not _BYTES:
        _BYTES.update(_byte_alphabet())
    if all(character in _BYTES for character in token):
        return bytes(_BYTES[character] for character in token)
    return token.encode("utf-8", "surrogatepass")


def _of_sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace(_BLANK, " ").encode("utf-8", "surrogatepass")
