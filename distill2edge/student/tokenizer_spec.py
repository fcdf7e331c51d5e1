"""The description of a fast tokenizer (a parsed tokenizer.json): which ids it uses, and those ids rewritten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

BATCH = 1000


class Kind(Protocol):
    """One kind of tokenizer model. `spec` is the parsed tokenizer.json."""

    name: str

    def refusal(self, spec: dict[str, Any]) -> str | None:
        """Why one of this kind cannot be trimmed; None where it can."""

    def keep(
        self, backend: Any, spec: dict[str, Any], texts: Sequence[str], used: Collection[int] = (), least: int = 1
    ) -> set[int]:
        """Ids that must stay for `texts` to keep their tokens, and for other texts to be written at all.

        Args:
            used: further ids that texts were written in.
            least: how often the texts use a token that stays for their sake.
        """

    def rewrite(self, spec: dict[str, Any], old_to_new: Mapping[int, int]) -> dict[str, Any]:
        """The description with the kept tokens alone, in their new ids."""


def used_ids(backend: Any, texts: Sequence[str], least: int = 1) -> set[int]:
    """Every id that stands at least so often in the encodings of the texts, specials among them."""
    return {index for index, times in count_ids(backend, texts).items() if times >= least}


def count_ids(backend: Any, texts: Sequence[str]) -> Counter[int]:
    """How often each id stands in the encodings of the texts, specials among them."""
    used = Counter[int]()
    for start in range(0, len(texts), BATCH):
        for encoding in backend.encode_batch(list(texts[start : start + BATCH])):
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


def steps_of(step: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or post-processor; `inner` is where a sequence has its own."""
    if step is None:
        return []
    steps: list[dict[str, Any]] = step[inner] if step["type"] == "Sequence" else [step]
    return steps


def _post_processors(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return steps_of(spec.get("post_processor"), "processors")
