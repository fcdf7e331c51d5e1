"""What each kind of tokenizer must keep when its vocabulary is trimmed, and how its description is rewritten."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from distill2edge.errors import UserError

_BATCH = 1000


class Kind(Protocol):
    """One kind of tokenizer model. `spec` is the parsed tokenizer.json."""

    name: str

    def keep(self, backend: Any, spec: dict[str, Any], texts: Sequence[str]) -> set[int]:
        """Ids that must stay for `texts` to keep their tokens, and for other texts to be written at all."""

    def rewrite(self, spec: dict[str, Any], old_to_new: Mapping[int, int]) -> dict[str, Any]:
        """The description with the kept tokens alone, in their new ids."""


class WordPiece:
    """Longest match first, from the left (BERT).

    Dropping tokens cannot change a word whose pieces stay: each piece was the longest in the larger vocabulary. A
    word that becomes the unknown token is another matter: it did so at the end of a path of longest matches, and with
    a piece of that path gone a shorter one may lead somewhere. So those pieces stay too.
    """

    name = "WordPiece"

    def keep(self, backend: Any, spec: dict[str, Any], texts: Sequence[str]) -> set[int]:
        vocabulary: dict[str, int] = spec["model"]["vocab"]
        prefix: str = spec["model"]["continuing_subword_prefix"]
        unknown = vocabulary[spec["model"]["unk_token"]]
        kept = used_ids(backend, texts) | {unknown} | added_ids(spec)
        kept |= {index for token, index in vocabulary.items() if len(token.removeprefix(prefix)) == 1}
        for start in range(0, len(texts), _BATCH):
            part = list(texts[start : start + _BATCH])
            for text, encoding in zip(part, backend.encode_batch(part, add_special_tokens=False), strict=True):
                if unknown in encoding.ids:
                    for word in _words(backend, text):
                        kept.update(self._failed_path(word, vocabulary, prefix))
        return kept

    def rewrite(self, spec: dict[str, Any], old_to_new: Mapping[int, int]) -> dict[str, Any]:
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


_KINDS: dict[str, Kind] = {"WordPiece": WordPiece()}


def kind_of(spec: dict[str, Any]) -> Kind:
    """The kind of a parsed tokenizer.json.

    Raises:
        UserError: one that cannot be trimmed yet.
    """
    return kind_named(spec["model"]["type"])


def kind_named(name: str) -> Kind:
    """The kind of a tokenizer whose model has this type in its tokenizer.json.

    Raises:
        UserError: one that cannot be trimmed yet.
    """
    if name not in _KINDS:
        raise UserError(
            f"a {name} vocabulary cannot be trimmed yet; supported: {', '.join(_KINDS)}",
            where="student.vocabulary",
            fix="set vocabulary: keep",
        )
    return _KINDS[name]


def used_ids(backend: Any, texts: Sequence[str]) -> set[int]:
    """Every id in the encodings of the texts, specials among them."""
    used: set[int] = set()
    for start in range(0, len(texts), _BATCH):
        for encoding in backend.encode_batch(list(texts[start : start + _BATCH])):
            used.update(encoding.ids)
    return used


def added_ids(spec: dict[str, Any]) -> set[int]:
    """Ids of the special and added tokens, those of the template and of padding included."""
    found = {token["id"] for token in spec["added_tokens"]}
    if spec.get("padding"):
        found.add(spec["padding"]["pad_id"])
    for part in _post_processors(spec):
        for key in ("sep", "cls"):
            if key in part:
                found.add(part[key][1])
        if part["type"] == "TemplateProcessing":
            for token in part["special_tokens"].values():
                found.update(token["ids"])
    return found


def rewrite_specials(spec: dict[str, Any], old_to_new: Mapping[int, int]) -> None:
    """Put new ids into the added tokens, the padding and the post-processor of a description, in place."""
    for token in spec["added_tokens"]:
        token["id"] = old_to_new[token["id"]]
    spec["added_tokens"].sort(key=lambda token: token["id"])
    if spec.get("padding"):
        spec["padding"]["pad_id"] = old_to_new[spec["padding"]["pad_id"]]
    for part in _post_processors(spec):
        for key in ("sep", "cls"):
            if key in part:
                part[key] = [part[key][0], old_to_new[part[key][1]]]
        if part["type"] == "TemplateProcessing":
            for token in part["special_tokens"].values():
                token["ids"] = [old_to_new[index] for index in token["ids"]]


def _post_processors(spec: dict[str, Any]) -> list[dict[str, Any]]:
    step = spec.get("post_processor")
    if step is None:
        return []
    processors: list[dict[str, Any]] = step["processors"] if step["type"] == "Sequence" else [step]
    return processors


def _words(backend: Any, text: str) -> list[str]:
    normalised = backend.normalizer.normalize_str(text) if backend.normalizer else text
    pieces = backend.pre_tokenizer.pre_tokenize_str(normalised) if backend.pre_tokenizer else [(normalised, None)]
    return [piece for piece, _ in pieces]
