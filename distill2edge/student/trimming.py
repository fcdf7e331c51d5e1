"""What each kind of tokenizer must keep when its vocabulary is trimmed, and how its description is rewritten."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from distill2edge.errors import UserError
from distill2edge.student.subwords import BytePairs, Unigram
from distill2edge.student.tokenizer_spec import BATCH, Kind, added_ids, count_ids, rewrite_specials


class WordPiece:
    """Longest match first, from the left (BERT).

    Dropping tokens cannot change a word whose pieces stay: each piece was the longest in the larger vocabulary. A
    word that becomes the unknown token is another matter: it did so at the end of a path of longest matches, and with
    a piece of that path gone a shorter one may lead somewhere. So those pieces stay too. Where rare tokens go, so
    do the characters that no text has, but for those of ASCII.
    """

    name = "WordPiece"

    def refusal(self, spec: dict[str, Any]) -> str | None:
        """As `Kind.refusal`."""
        return None

    def keep(
        self, backend: Any, spec: dict[str, Any], texts: Sequence[str], used: Collection[int] = (), least: int = 1
    ) -> set[int]:
        """As `Kind.keep`."""
        vocabulary: dict[str, int] = spec["model"]["vocab"]
        prefix: str = spec["model"]["continuing_subword_prefix"]
        unknown = vocabulary[spec["model"]["unk_token"]]
        counts = count_ids(backend, texts)
        kept = {index for index, times in counts.items() if times >= least} | {unknown} | added_ids(spec) | set(used)
        single = {index: bare for token, index in vocabulary.items() if len(bare := token.removeprefix(prefix)) == 1}
        tokens = {index: token for token, index in vocabulary.items()}
        written = {letter for index in counts for letter in tokens.get(index, "")}
        kept |= {index for index, letter in single.items() if least == 1 or letter.isascii() or letter in written}
        for start in range(0, len(texts), BATCH):
            part = list(texts[start : start + BATCH])
            for text, encoding in zip(part, backend.encode_batch(part, add_special_tokens=False), strict=True):
                if unknown in encoding.ids:
                    for word in _words(backend, text):
                        kept.update(self._failed_path(word, vocabulary, prefix))
        return kept

    def rewrite(self, spec: dict[str, Any], old_to_new: Mapping[int, int]) -> dict[str, Any]:
        """As `Kind.rewrite`."""
        new = copy.deepcopy(spec)
        vocabulary = {
            token: old_to_new[index] for token, index in spec["model"]["vocab"].items() if index in old_to_new
        }
        new["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: item[1]))
        rewrite_specials(new, old_to_new)
        return new

    @staticmethod
    def _failed_path(word: str, vocabulary: Mapping[str, int], prefix: str) -> Iterator[int]:
        """The pieces that were matched before a word failed; nothing for a word that did not fail."""
        matched: list[int] = []
        start = 0
        while start < len(word):
            lead = prefix if start else ""
            end = next((e for e in range(len(word), start, -1) if lead + word[start:e] in vocabulary), None)
            if end is None:
                yield from matched
                return
            matched.append(vocabulary[lead + word[start:end]])
            start = end


_KINDS: dict[str, Kind] = {kind.name: kind for kind in (WordPiece(), BytePairs(), Unigram())}


def kind_of(spec: Mapping[str, Any]) -> Kind:
    """The kind of a parsed tokenizer.json.

    Raises:
        UserError: one that cannot be trimmed.
    """
    model = spec.get("model")
    name = model.get("type") if isinstance(model, dict) else None
    kind = _KINDS.get(str(name))
    why = f"supported: {', '.join(_KINDS)}" if kind is None else kind.refusal(dict(spec))
    if kind is None or why is not None:
        raise UserError(
            f"a {name} vocabulary cannot be trimmed: {why}", where="student.vocabulary", fix="set vocabulary: keep"
        )
    return kind


def _words(backend: Any, text: str) -> list[str]:
    normalised = backend.normalizer.normalize_str(text) if backend.normalizer else text
    pieces = backend.pre_tokenizer.pre_tokenize_str(normalised) if backend.pre_tokenizer else [(normalised, None)]
    return [piece for piece, _ in pieces]
