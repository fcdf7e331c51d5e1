"""The vocabularies of decoders, trimmed: byte pairs (byte-level, or SentencePiece's with single bytes) and Unigram.

A smaller vocabulary must write the kept texts in the same tokens, and every other text in some. Both kinds keep
single bytes or characters for the second. Sizes are rounded up to a multiple of `MULTIPLE`: llama.cpp lays the rows of
a product out in groups of 8, and GPU kernels in 64; the room is filled with tokens that the tokenizer values most.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from distill2edge.student.tokenizer_spec import added_ids, rewrite_specials, steps_of, used_ids

MULTIPLE = 64
_SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_BYTES = 256


class BytePairs:
    """Pairs of neighbours are merged, the pair that was learned first before the others (BPE).

    A token comes about by one order of merges whatever stands around it: at each step the best pair inside it is
    merged, and no pair across its ends ever is, else it would be no token of that text. So the tokens on that way stay
    with it. Among fewer merges the best one is still the best, and a text whose tokens stay keeps them.
    """

    name = "BPE"

    def refusal(self, spec: dict[str, Any]) -> str | None:
        """As `Kind.refusal`: without single bytes some texts could not be written any more."""
        model = spec["model"]
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            return "its tokens are marked inside words (CLIP, GPT-1)"
        known = model["vocab"]
        if not _byte_level(spec) and not (model.get("byte_fallback") and sum(map(_is_byte, known)) == _BYTES):
            return "it has neither bytes as its characters nor all single bytes, and could not write every text"
        return None

    def keep(
        self, backend: Any, spec: dict[str, Any], texts: Sequence[str], used: Collection[int] = (), least: int = 1
    ) -> set[int]:
        """As `Kind.keep`."""
        vocabulary: dict[str, int] = spec["model"]["vocab"]
        pairs = [_pair(each) for each in spec["model"]["merges"]]
        ranks = {pair: rank for rank, pair in reversed(list(enumerate(pairs)))}
        added = added_ids(spec)
        every = _byte_level(spec)
        kept = used_ids(backend, texts, least) | set(used) | added
        kept |= {index for token, index in vocabulary.items() if _is_base(token) or (every and len(token) == 1)}
        if (unknown := spec["model"].get("unk_token")) in vocabulary:
            kept.add(vocabulary[unknown])
        tokens = {index: token for token, index in vocabulary.items()}
        for index in kept - added:
            if index in tokens and not _is_byte(tokens[index]):
                kept |= {vocabulary[part] for part in _way_to(tokens[index], ranks) if part in vocabulary}
        return _filled(kept, self._next(pairs, vocabulary, kept), len(vocabulary.keys() | _names(spec)))

    def rewrite(self, spec: dict[str, Any], old_to_new: Mapping[int, int]) -> dict[str, Any]:
        """As `Kind.rewrite`."""
        new, model = copy.deepcopy(spec), spec["model"]
        known = {token: old_to_new[index] for token, index in model["vocab"].items() if index in old_to_new}
        new["model"]["vocab"] = dict(sorted(known.items(), key=lambda item: item[1]))
        new["model"]["merges"] = [
            each for each in model["merges"] if {*(pair := _pair(each)), "".join(pair)} <= known.keys()
        ]
        rewrite_specials(new, old_to_new)
        return new

    @staticmethod
    def _next(pairs: Iterable[tuple[str, str]], vocabulary: Mapping[str, int], kept: set[int]) -> Iterator[int]:
        """What the merges make of tokens that are kept, the first learned first; `kept` may grow meanwhile."""
        for left, right in pairs:
            if vocabulary[left] in kept and vocabulary[right] in kept:
                yield vocabulary[left + right]


class Unigram:
    """The likeliest split of the whole text (SentencePiece's Unigram).

    Among fewer splits the likeliest one is still the likeliest. A character that is no token costs a fixed amount below
    the least likely token, so that token stays, or characters that were dropped would become cheaper.
    """

    name = "Unigram"

    def refusal(self, spec: dict[str, Any]) -> str | None:
        """As `Kind.refusal`."""
        if spec["model"].get("byte_fallback") and sum(_is_byte(token) for token, _ in spec["model"]["vocab"]) != _BYTES:
            return "it falls back to bytes, and some are missing"
        return None

    def keep(
        self, backend: Any, spec: dict[str, Any], texts: Sequence[str], used: Collection[int] = (), least: int = 1
    ) -> set[int]:
        """As `Kind.keep`. Without single bytes every single character stays."""
        pieces: list[tuple[str, float]] = spec["model"]["vocab"]
        every = not spec["model"].get("byte_fallback")
        kept = used_ids(backend, texts, least) | set(used) | added_ids(spec)
        kept |= {index for index, (token, _) in enumerate(pieces) if _is_base(token) or (every and len(token) == 1)}
        if (unknown := spec["model"].get("unk_id")) is not None:
            kept.add(unknown)
        kept.add(min(range(len(pieces)), key=lambda index: pieces[index][1]))
        best = sorted(range(len(pieces)), key=lambda index: -pieces[index][1])
        return _filled(kept, best, len({token for token, _ in pieces} | _names(spec)))

    def rewrite(self, spec: dict[str, Any], old_to_new: Mapping[int, int]) -> dict[str, Any]:
        """As `Kind.rewrite`. A token's id is its place in the list."""
        new, pieces = copy.deepcopy(spec), spec["model"]["vocab"]
        places = sorted(index for index in old_to_new if index < len(pieces))
        assert [old_to_new[index] for index in places] == list(range(len(places)))
        new["model"]["vocab"] = [pieces[index] for index in places]
        if new["model"].get("unk_id") is not None:
            new["model"]["unk_id"] = old_to_new[new["model"]["unk_id"]]
        rewrite_specials(new, old_to_new)
        return new


def _filled(kept: set[int], candidates: Iterable[int], total: int) -> set[int]:
    """With as many of the candidates as fill the size up to a multiple; fewer where the tokenizer has no more.

    Args:
        kept: grows while `candidates` is read.
        total: tokens of the whole tokenizer.
    """
    wanted = min(math.ceil(len(kept) / MULTIPLE) * MULTIPLE, total)
    for index in candidates:
        if len(kept) >= wanted:
            break
        kept.add(index)
    return kept


def _way_to(token: str, ranks: Mapping[tuple[str, str], int]) -> Iterator[str]:
    """Every token on the way from a token's characters to itself; its characters alone where no merges lead to it."""
    parts, made = list(token), list(token)
    while len(parts) > 1:
        at = min(range(len(parts) - 1), key=lambda place: ranks.get((parts[place], parts[place + 1]), math.inf))
        if (parts[at], parts[at + 1]) not in ranks:
            yield from token
            return
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        made.append(parts[at])
    yield from made


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _names(spec: dict[str, Any]) -> set[str]:
    return {token["content"] for token in spec["added_tokens"]}


def _byte_level(spec: dict[str, Any]) -> bool:
    return any(step["type"] == "ByteLevel" for step in steps_of(spec.get("pre_tokenizer"), "pretokenizers"))


def _is_byte(token: str) -> bool:
    return _BYTE.fullmatch(token) is not None


def _is_base(token: str) -> bool:
    """What stays in any case: single bytes, a space, and the characters of ASCII."""
    return _is_byte(token) or token == _SPACE or (len(token) == 1 and token.isascii())
