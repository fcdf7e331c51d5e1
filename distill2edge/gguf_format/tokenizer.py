"""A Hugging Face fast tokenizer from the vocabulary of a GGUF.

Two kinds are rebuilt: byte-level BPE (`gpt2`) with the pre-tokenizer that `tokenizer.ggml.pre` names, and
SentencePiece BPE (`llama`) with byte fallback. What comes out is compared with llama.cpp by the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill2edge.errors import UserError
from distill2edge.gguf_format import pretokenizers
from distill2edge.gguf_format.reader import GgufFile

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
    """Read the special tokens. Where the file leaves add_bos open, llama.cpp's default per tokenizer kind counts."""
    spm = file.require("tokenizer.ggml.model") == "llama"
    llama3 = pretokenizers.canonical(file.get("tokenizer.ggml.pre", "default")) == "llama-bpe"
    add_bos = file.get("tokenizer.ggml.add_bos_token", spm or llama3)

    def read(name: str, default: int | None = None) -> int | None:
        value = file.get(f"tokenizer.ggml.{name}_token_id", default)
        if value is None or value >= len(file.require("tokenizer.ggml.tokens")):
            return None
        return int(value)

    return SpecialIds(
        bos=read("bos", 1 if spm else None),
        eos=read("eos", 2 if spm else None),
        pad=read("padding"),
        unk=read("unknown", 0 if spm else None),
        eot=read("eot"),
        add_bos=bool(add_bos),
        add_eos=bool(file.get("tokenizer.ggml.add_eos_token", False)),
    )


def build_tokenizer(file: GgufFile, ids: SpecialIds) -> Any:
    """The fast tokenizer (transformers), with chat template and special tokens as the GGUF states them.

    Raises:
        UserError: a tokenizer kind or pre-tokenizer that is not known.
    """
    from transformers import PreTrainedTokenizerFast

    kind, tokens = file.require("tokenizer.ggml.model"), file.require("tokenizer.ggml.tokens")
    types = file.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise UserError("the vocabulary is inconsistent: token types or names do not fit", where=str(file.path),
                        fix="use another GGUF of this model")  # fmt: skip
    if kind == "gpt2":
        core = _byte_level(file, tokens)
    elif kind == "llama":
        core = _sentencepiece(file, tokens)
    else:
        raise UserError(
            f"tokenizer kind {kind!r} cannot be rebuilt (known: gpt2, llama)",
            where=str(file.path),
            fix="use the model's Hugging Face directory",
        )
    _mark_special(core, tokens, types)
    _bos_eos(core, tokens, ids)
    named = {"bos_token": ids.bos, "eos_token": ids.eos, "pad_token": ids.pad, "unk_token": ids.unk}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        clean_up_tokenization_spaces=False,
        model_max_length=int(file.get(".context_length", 1 << 30)),
        **{name: tokens[value] for name, value in named.items() if value is not None},
    )
    template = file.get("tokenizer.chat_template")
    if template:
        fast.chat_template = template
    return fast


def _byte_level(file: GgufFile, tokens: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    name = file.get("tokenizer.ggml.pre", "default")
    key = pretokenizers.canonical(name)
    if key is None:
        raise UserError(
            f"pre-tokenizer {name!r} is not known; known: {pretokenizers.known()}",
            where=str(file.path),
            fix="use the model's Hugging Face directory",
        )
    merges = [tuple(pair.split(" ", 1)) for pair in file.require("tokenizer.ggml.merges")]
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


def _sentencepiece(file: GgufFile, tokens: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = file.require("tokenizer.ggml.scores")
    prefix = bool(file.get("tokenizer.ggml.add_space_prefix", True))
    unknown = file.get("tokenizer.ggml.unknown_token_id", 0)
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
