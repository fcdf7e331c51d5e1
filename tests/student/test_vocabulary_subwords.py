"""Vocabularies of decoders trimmed: any text is still written, and the corpus in the same tokens."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from distill2edge.errors import UserError
from distill2edge.models.id_map import IdMap
from distill2edge.student.subwords import MULTIPLE
from distill2edge.student.trimming import kind_of
from tests.tiny import corpus

SPACE = "\u2581"
BYTES = [f"<0x{number:02X}>" for number in range(256)]
NARROW = ("the quick brown fox jumps over a lazy dog", " good", "and 12345\n\tthen it sleeps", "café 你好")
TEXTS = st.text(max_size=40) | st.text(alphabet="the quickbrown \n\t12é你🙂", max_size=60)
"""Arbitrary Unicode without surrogates, and texts full of merges."""


def byte_level(ignore_merges: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<|end|>", "<|pad|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(lines(), trainer)
    return tokenizer


def sentencepiece() -> Tokenizer:
    """As Gemma's: no pre-tokenizer, so that tokens go over spaces; every pair that makes a token is a merge."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>", *BYTES], show_progress=False, max_token_length=12
    )
    tokenizer.train_from_iterator(lines(), trainer)
    spec = json.loads(tokenizer.to_str())
    vocabulary, rank = spec["model"]["vocab"], {}
    for left, right in spec["model"]["merges"]:
        rank.setdefault(left + right, len(rank))
    spec["model"]["merges"] = [
        [token[:at], token[at:]]
        for token in sorted(rank, key=rank.__getitem__)
        for at in range(1, len(token))
        if token[:at] in vocabulary and token[at:] in vocabulary
    ]
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in BYTES]
    spec["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]}  # fmt: skip
    return Tokenizer.from_str(json.dumps(spec))


def unigram(fallback: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "</s>", *(BYTES if fallback else ())]
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(lines(), trainer)
    spec = json.loads(tokenizer.to_str())
    spec["model"]["byte_fallback"] = fallback
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] not in BYTES]
    spec["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]}  # fmt: skip
    return Tokenizer.from_str(json.dumps(spec))


def lines() -> list[str]:
    words = ("sentence", "vocabulary", "another", "translation", "weather", "mountain", "library", "kitchen", "garden")
    return [*corpus()[:40], *(f"{a} {b}ing {b}s, un{a}ed" for a in words for b in words)]


MADE = {
    "byte-level": byte_level,
    "byte-level, words taken whole": lambda: byte_level(ignore_merges=True),
    "SentencePiece": sentencepiece,
    "Unigram with bytes": lambda: unigram(True),
}


@cache
def made(name: str) -> Tokenizer:
    return MADE[name]()


def trimmed(full: Tokenizer, texts: tuple[str, ...]) -> tuple[Tokenizer, IdMap]:
    spec = json.loads(full.to_str())
    kind = kind_of(spec)
    keep = sorted(kind.keep(full, spec, texts))
    small = Tokenizer.from_str(json.dumps(kind.rewrite(spec, {old: new for new, old in enumerate(keep)})))
    return small, IdMap(np.asarray(keep), full.get_vocab_size())


@cache
def narrow(name: str) -> tuple[Tokenizer, IdMap]:
    return trimmed(made(name), NARROW)


@pytest.mark.parametrize("name", MADE)
def test_the_vocabulary_is_smaller_and_every_token_has_its_new_id(name: str) -> None:
    full, (small, ids) = made(name), narrow(name)
    assert len(ids.new_to_old) == small.get_vocab_size() < full.get_vocab_size()
    assert small.get_vocab_size() % MULTIPLE == 0
    for new, old in enumerate(ids.new_to_old):
        assert small.id_to_token(new) == full.id_to_token(int(old))


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_any_text_is_written_and_read_back(name: str, text: str) -> None:
    full, (small, _) = made(name), narrow(name)
    back = small.decode(small.encode(text).ids, skip_special_tokens=False)
    assert back == full.decode(full.encode(text).ids, skip_special_tokens=False)
    if SPACE not in text:  # which SentencePiece itself reads as a space
        assert back == text


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS | st.sampled_from(lines()), min_size=1, max_size=5))
def test_the_corpus_keeps_its_tokens(name: str, texts: list[str]) -> None:
    full = made(name)
    small, ids = trimmed(full, tuple(texts))
    for text in texts:
        assert ids.to_old(small.encode(text).ids) == full.encode(text).ids


def test_without_bytes_a_unigram_keeps_every_character() -> None:
    full = unigram(False)
    small, ids = trimmed(full, NARROW)
    for text in (*NARROW, "other words, 9 é", "ungarden"):
        known = "<unk>" in small.encode(text).tokens
        assert known == ("<unk>" in full.encode(text).tokens)
    assert ids.to_old(small.encode("fox ☃ dog").ids)[-2:] == full.encode("fox ☃ dog").ids[-2:]


def test_every_kept_token_comes_about_by_kept_merges() -> None:
    small, _ = narrow("byte-level")
    for token in small.get_vocab():
        if token not in ("<|end|>", "<|pad|>"):
            assert [piece.value for piece in small.model.tokenize(token)] == [token]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({"type": "BPE", "vocab": {"a": 0}, "merges": []}, "neither bytes"),
        ({"type": "BPE", "vocab": {"a</w>": 0}, "merges": [], "end_of_word_suffix": "</w>"}, "marked inside words"),
        ({"type": "Unigram", "vocab": [["a", 0.0]], "byte_fallback": True}, "some are missing"),
        ({"type": "WordLevel", "vocab": {"a": 0}}, "supported: WordPiece, BPE, Unigram"),
    ],
)
def test_others_are_refused_with_the_reason(model: dict, why: str) -> None:
    with pytest.raises(UserError, match=f"{model['type']} vocabulary cannot be trimmed.*{why}"):
        kind_of({"model": model, "added_tokens": []})
