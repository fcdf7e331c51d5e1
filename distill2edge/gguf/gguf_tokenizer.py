"""A Hugging Face fast tokenizer from the vocabulary of a GGUF.

Two kinds are rebuilt: byte-level BPE (`gpt2`) with the pre-tokenizer that `tokenizer.ggml.pre` names, and
SentencePiece BPE (`llama`) with byte fallback. What comes out is compared with llama.cpp by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill2edge.errors import UserError
from distill2edge.gguf import pretokenizers
from distill2edge.gguf.fields import bad, flag, items, text, token_id, whole
from distill2edge.gguf.reader import GgufFile
from distill2edge.models.checkpoint import refusals
from distill2edge.models.config import MAX_POSITIONS

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens by the GGUF's own metadata; None where it names none."""

    bos: int | None
    eos: int | None
    pad: int | None
    unk: int | None
    eot: int | None
    add_bos: bool
    add_eos: bool


def special_ids(file: GgufFile) -> SpecialIds:
    """Read the special tokens. Where the file leaves add_bos open, llama.cpp's default per tokenizer kind counts.

    Raises:
        UserError: a field of another type, or an id beyond the vocabulary.
    """
    spm = text(file, "tokenizer.ggml.model") == "llama"
    llama3 = pretokenizers.canonical(text(file, "tokenizer.ggml.pre", "default")) == "llama-bpe"
    vocabulary = len(items(file, "tokenizer.ggml.tokens", str))

    def read(name: str, default: int | None = None) -> int | None:
        return token_id(file, name, vocabulary, default)

    return SpecialIds(
        bos=read("bos", 1 if spm else None),
        eos=read("eos", 2 if spm else None),
        pad=read("padding"),
        unk=read("unknown", 0 if spm else None),
        eot=read("eot"),
        add_bos=flag(file, "tokenizer.ggml.add_bos_token", spm or llama3),
        add_eos=flag(file, "tokenizer.ggml.add_eos_token", False),
    )


def build_tokenizer(file: GgufFile, ids: SpecialIds) -> Any:
    """The fast tokenizer (transformers), with chat template and special tokens as the GGUF states them.

    Raises:
        UserError: a tokenizer kind or pre-tokenizer that is not known.
    """
    from transformers import PreTrainedTokenizerFast

    kind, tokens = text(file, "tokenizer.ggml.model"), items(file, "tokenizer.ggml.tokens", str)
    types = [NORMAL] * len(tokens)
    if "tokenizer.ggml.token_type" in file.fields:
        types = items(file, "tokenizer.ggml.token_type", int, len(tokens))
    if not all(0 <= each <= BYTE for each in types):
        raise bad(file, "tokenizer.ggml.token_type", f"holds types other than 0 to {BYTE}")
    if len(set(tokens)) != len(tokens):
        raise bad(file, "tokenizer.ggml.tokens", "holds a token twice")
    if kind not in ("gpt2", "llama"):
        raise UserError(
            f"tokenizer kind {kind[:40]!r} cannot be rebuilt (known: gpt2, llama)",
            where=str(file.path),
            fix="use the model's Hugging Face directory",
        )
    parts = _byte_level_parts(file) if kind == "gpt2" else _sentencepiece_parts(file, tokens)
    length = whole(file, ".context_length", 1, MAX_POSITIONS, 1 << 30)
    named = {"bos_token": ids.bos, "eos_token": ids.eos, "pad_token": ids.pad, "unk_token": ids.unk}
    # Merges of pieces that are no tokens, and the like: the library says which.
    with refusals("no tokenizer can be made of its vocabulary", file.path):
        core = _byte_level(file, tokens, *parts) if kind == "gpt2" else _sentencepiece(tokens, *parts)
        _mark_special(core, tokens, types)
        _bos_eos(core, tokens, ids)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=core,
            clean_up_tokenization_spaces=False,
            model_max_length=length,
            **{name: tokens[value] for name, value in named.items() if value is not None},
        )
    template = text(file, "tokenizer.chat_template", "")
    if template:
        fast.chat_template = template
    return fast


def _byte_level_parts(file: GgufFile) -> tuple[str, list[tuple[str, str]]]:
    """Pre-tokenizer and merges."""
    name = text(file, "tokenizer.ggml.pre", "default")
    if pretokenizers.canonical(name) is None:
        raise UserError(
            f"pre-tokenizer {name[:40]!r} is not known; known: {pretokenizers.known()}",
            where=str(file.path),
            fix="use the model's Hugging Face directory",
        )
    merges = []
    for pair in items(file, "tokenizer.ggml.merges", str):
        left, space, right = pair.partition(" ")
        if not (left and space and right):
            raise bad(file, "tokenizer.ggml.merges", f"{pair[:40]!r} is no pair of pieces")
        merges.append((left, right))
    return name, merges


def _byte_level(file: GgufFile, tokens: list[str], name: str, merges: list[tuple[str, str]]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    key = pretokenizers.canonical(name)
    core = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges,
            ignore_merges=pretokenizers.ignores_merges(name),
        )
    )
    if key == "qwen2" and file.architecture.startswith("qwen"):
        core.normalizer = normalizers.NFC()  # as Qwen's own tokenizer does
    core.pre_tokenizer = pretokenizers.build(name)
    core.decoder = decoders.ByteLevel()
    return core


def _sentencepiece_parts(file: GgufFile, tokens: list[str]) -> tuple[list[float], bool, int]:
    """Scores, whether a space goes before a text, and the unknown token's id."""
    scores = items(file, "tokenizer.ggml.scores", float, len(tokens))
    prefix = flag(file, "tokenizer.ggml.add_space_prefix", True)
    return scores, prefix, token_id(file, "unknown", len(tokens), 0) or 0


def _sentencepiece(tokens: list[str], scores: list[float], prefix: bool, unknown: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    core = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges_from_scores(tokens, scores),
            unk_token=tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps = [normalizers.Prepend(SPACE)] if prefix else []
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if prefix else parts)
    return core


def merges_from_scores(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """The merge list of a SentencePiece BPE: every split of a token into two tokens, best score first.

    SentencePiece merges the neighbours whose union has the highest score; a merge list whose rank follows the
    score of the union does the same.
    """
    index = {token: position for position, token in enumerate(tokens)}
    merges: list[tuple[float, int, int, int, str, str]] = []
    for token, position in index.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in index and right in index:
                merges.append((-scores[position], position, index[left], index[right], left, right))
    merges.sort(key=lambda merge: merge[:4])
    return [(left, right) for *_, left, right in merges]


def _mark_special(core: Any, tokens: list[str], types: list[int]) -> None:
    from tokenizers import AddedToken

    special = [AddedToken(token, special=True, normalized=False)
               for token, kind in zip(tokens, types, strict=True) if kind in (CONTROL, UNKNOWN)]  # fmt: skip
    defined = [AddedToken(token, special=False, normalized=False)
               for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED]  # fmt: skip
    core.add_special_tokens(special)
    core.add_tokens(defined)


def _bos_eos(core: Any, tokens: list[str], ids: SpecialIds) -> None:
    from tokenizers import processors

    before = [ids.bos] if ids.add_bos and ids.bos is not None else []
    after = [ids.eos] if ids.add_eos and ids.eos is not None else []
    if not before and not after:
        return
    head, tail = [tokens[i] for i in before], [tokens[i] for i in after]
    core.post_processor = processors.TemplateProcessing(
        single=[*head, "$A", *tail],
        pair=[*head, "$A", *tail, *[f"{token}:1" for token in head], "$B:1", *[f"{token}:1" for token in tail]],
        special_tokens=[(tokens[i], i) for i in {*before, *after}],
    )
