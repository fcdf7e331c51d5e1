"""A Hugging Face fast tokenizer as GGUF vocabulary fields.

Four kinds: byte-level BPE (`gpt2`, with llama.cpp's name of its pre-tokenizer), SentencePiece BPE with byte fallback
(`llama`, scores from the merge order), Unigram (`t5`) and WordPiece (`bert`).
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.gguf import pretokenizers
from distill2edge.gguf.gguf_tokenizer import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED

_BYTE_TOKEN = re.compile(r"^<0x[0-9A-F]{2}>$")
_CONTROL_LIKE = re.compile(r"^(<\|.*\|>|<unused\d+>)$")
# Far below any real score: such tokens are matched as a whole, never merged into.
_NEVER = -10_000.0
# For a byte-level vocabulary without merges, since llama.cpp loads none without that field: bytes that UTF-8 never has,
# into a token that is not there.
_NO_MERGE = "ÿ ÿ"


class NoEqual(UserError):
    """A tokenizer that has no equal in the fields of a GGUF, as far as is known here."""


@dataclass
class Vocabulary:
    """What goes into a GGUF's `tokenizer.*` fields. Lists are indexed by token id."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] | None = None
    merges: list[str] | None = None
    ids: dict[str, int] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    charsmap: bytes | None = None
    chat_template: str | None = None

    def write(self, writer: Any) -> None:
        """Add the fields to a gguf.GGUFWriter."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        writer.add_token_types(self.types)
        if self.merges is not None:
            writer.add_token_merges(self.merges)
        for name, value in self.ids.items():
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", value)
        for name, flag in self.flags.items():
            writer.add_bool(f"tokenizer.ggml.{name}", flag)
        if self.charsmap is not None:
            writer.add_precompiled_charsmap(self.charsmap)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def load_tokenizer(model_dir: Path) -> Any:
    """The directory's fast tokenizer.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no usable tokenizer: {error}", where=str(model_dir), fix="export a complete model directory"
        ) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UserError("only fast tokenizers (tokenizer.json) can be written to GGUF", where=str(model_dir),
                        fix="save the tokenizer as a fast one")  # fmt: skip
    return tokenizer


def vocabulary_of(tokenizer: Any, size: int, eos_ids: list[int], where: str) -> Vocabulary:
    """The GGUF vocabulary of a fast tokenizer.

    Args:
        tokenizer: a transformers fast tokenizer.
        size: rows of the embedding; ids without a token are filled with unused ones.
        eos_ids: every id that ends a response (generation config); the first that is not `eos` becomes `eot`.
        where: the place, for messages.

    Raises:
        NoEqual: a kind of tokenizer that llama.cpp does not have.
        UserError: more tokens than `size`.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(by_id) >= size:
        raise UserError(f"the tokenizer has ids up to {max(by_id)}, the embedding {size} rows", where=where,
                        fix="resize the embedding, or use the tokenizer the model was trained with")  # fmt: skip
    tokens = [by_id.get(index, f"[PAD{index}]") for index in range(size)]
    types = [NORMAL if index in by_id else UNUSED for index in range(size)]
    for added in spec["added_tokens"]:
        control = added["special"] or _CONTROL_LIKE.match(added["content"])
        types[added["id"]] = CONTROL if control else USER_DEFINED
    kind = spec["model"]["type"]
    if kind == "WordPiece":
        return _wordpiece(tokenizer, spec, tokens, types, where)
    if kind == "BPE" and _is_byte_level(spec):
        vocabulary = _byte_level(tokenizer, spec, tokens, types, where)
    elif kind == "BPE" and spec["model"].get("byte_fallback"):
        vocabulary = _sentencepiece(spec, tokens, types)
    elif kind == "Unigram":
        vocabulary = _unigram(spec, tokens, types)
    else:
        raise NoEqual(
            f"tokenizer model {kind!r} without byte-level pre-tokenizer or byte fallback has no GGUF equivalent",
            where=where,
            fix="byte-level BPE, SentencePiece BPE, Unigram and WordPiece tokenizers can be exported",
        )
    vocabulary.ids = _special_ids(tokenizer, eos_ids)
    probe = tokenizer("a").input_ids
    vocabulary.flags["add_bos_token"] = probe[0] == tokenizer.bos_token_id and tokenizer.bos_token_id is not None
    vocabulary.flags["add_eos_token"] = probe[-1] == tokenizer.eos_token_id and tokenizer.eos_token_id is not None
    return vocabulary


def _special_ids(tokenizer: Any, eos_ids: list[int]) -> dict[str, int]:
    named = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "unknown": tokenizer.unk_token_id,
             "padding": tokenizer.pad_token_id}  # fmt: skip
    if named["eos"] is None and eos_ids:
        named["eos"] = eos_ids[0]
    others = [index for index in eos_ids if index != named["eos"]]
    if others:
        named["eot"] = others[0]
    return {name: int(index) for name, index in named.items() if index is not None}


def _parts(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if step is None:
        return []
    return step[inner] if step["type"] == "Sequence" else [step]


def _is_byte_level(spec: dict[str, Any]) -> bool:
    return any(part["type"] == "ByteLevel" for part in _parts(spec["pre_tokenizer"], "pretokenizers"))


def _byte_level(tokenizer: Any, spec: dict[str, Any], tokens: list[str], types: list[int], where: str) -> Vocabulary:
    ignore = bool(spec["model"].get("ignore_merges"))
    pre = pretokenizers.detect(tokenizer.backend_tokenizer.pre_tokenizer, ignore)
    if pre is None:
        raise NoEqual(
            f"its pre-tokenizer is not known; known: {pretokenizers.known()}",
            where=where,
            fix="give --converter PATH (a llama.cpp checkout's convert_hf_to_gguf.py)",
        )
    pairs = spec["model"]["merges"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs] or [_NO_MERGE]
    return Vocabulary("gpt2", pre, tokens, types, merges=merges, flags={"add_space_prefix": False})


def _sentencepiece(spec: dict[str, Any], tokens: list[str], types: list[int]) -> Vocabulary:
    rank: dict[str, int] = {}
    for pair in spec["model"]["merges"]:
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        rank.setdefault(left + right, len(rank))
    scores: list[float] = []
    for index, token in enumerate(tokens):
        if types[index] == NORMAL and _BYTE_TOKEN.match(token):
            types[index] = BYTE
        if token in rank:
            scores.append(-float(rank[token]))
        else:
            # A single character is where merging starts, so its score is never compared.
            scores.append(0.0 if types[index] == BYTE else _NEVER)
    _mark_unknown(spec["model"].get("unk_token"), tokens, types)
    return Vocabulary("llama", "default", tokens, types, scores=scores, flags={"add_space_prefix": _prefixed(spec)})


def _unigram(spec: dict[str, Any], tokens: list[str], types: list[int]) -> Vocabulary:
    pieces = spec["model"]["vocab"]
    scores = [float(pieces[index][1]) if index < len(pieces) else _NEVER for index in range(len(tokens))]
    for index, token in enumerate(tokens):
        if types[index] == NORMAL and _BYTE_TOKEN.match(token):
            types[index] = BYTE
    unknown = spec["model"].get("unk_id")
    _mark_unknown(tokens[unknown] if unknown is not None else None, tokens, types)
    steps = _parts(spec["normalizer"], "normalizers")
    charsmap = next((step["precompiled_charsmap"] for step in steps if step["type"] == "Precompiled"), None)
    collapse = any(step["type"] == "Replace" and step["pattern"].get("Regex") == " {2,}" for step in steps)
    return Vocabulary(
        "t5",
        "default",
        tokens,
        types,
        scores=scores,
        flags={"add_space_prefix": _prefixed(spec), "remove_extra_whitespaces": collapse},
        charsmap=base64.b64decode(charsmap) if charsmap else None,
    )


def _wordpiece(tokenizer: Any, spec: dict[str, Any], tokens: list[str], types: list[int], where: str) -> Vocabulary:
    """llama.cpp writes a word's first piece with a phantom space before it, and the others bare."""
    prefix = spec["model"]["continuing_subword_prefix"]
    if prefix != "##":
        raise NoEqual(f"its pieces continue with {prefix!r}, llama.cpp knows only '##'", where=where,
                        fix="use ONNX for this tokenizer")  # fmt: skip
    written = [
        token if types[index] in (CONTROL, UNUSED) else token[2:] if token.startswith("##") else SPACE + token
        for index, token in enumerate(tokens)
    ]
    _mark_unknown(spec["model"]["unk_token"], tokens, types)
    ids = {"bos": tokenizer.cls_token_id, "cls": tokenizer.cls_token_id, "eos": tokenizer.sep_token_id,
           "seperator": tokenizer.sep_token_id, "padding": tokenizer.pad_token_id,
           "unknown": tokenizer.unk_token_id, "mask": tokenizer.mask_token_id}  # fmt: skip
    normalizer = next((part for part in _parts(spec["normalizer"], "normalizers") if "lowercase" in part), {})
    lowercase = bool(normalizer.get("lowercase", False))
    accents = normalizer.get("strip_accents")
    return Vocabulary(
        "bert",
        "default",
        written,
        types,
        ids={name: int(index) for name, index in ids.items() if index is not None},
        flags={
            "add_bos_token": True,
            "add_eos_token": False,
            "add_sep_token": True,
            "normalizer.lowercase": lowercase,
            "normalizer.strip_accents": lowercase if accents is None else bool(accents),
        },
    )


def _mark_unknown(token: str | None, tokens: list[str], types: list[int]) -> None:
    if token is not None and token in tokens:
        types[tokens.index(token)] = UNKNOWN


def _prefixed(spec: dict[str, Any]) -> bool:
    """Whether a space is put before the text."""
    for step in _parts(spec["normalizer"], "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == SPACE:
            return True
    for step in _parts(spec["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace":
            return step.get("prepend_scheme", "always") != "never"
    return False
