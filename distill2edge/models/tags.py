"""Tags of words (IOB2) and the entities that they stand for. Pure.

B-X begins an entity of type X, I-X continues it, O is outside (Ramshaw and Marcus 1995; IOB2: Tjong Kim Sang and
Veenstra 1999). An I-X that continues nothing begins an entity, as in CoNLL-2003's scorer `conlleval`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

OUTSIDE = "O"


class Entity(NamedTuple):
    """Characters of a text, or words of it, and what they name."""

    start: int
    end: int
    label: str


class TagSet:
    """The tags that a head tells apart.

    Attributes:
        names: in the order of the head's logits.
        types: of entities, each once.
    """

    def __init__(self, choices: Sequence[str]) -> None:
        """`choices`: the tags, O among them; or the types of entities alone, whose tags are O, B-X, I-X, B-Y, ...

        Raises:
            ValueError: tags that are neither O, B-X nor I-X.
        """
        given = [choice.strip() for choice in choices]
        if OUTSIDE not in given:
            if any(name[:2] in ("B-", "I-") for name in given):
                raise ValueError(f"the tags have no {OUTSIDE}, the tag of words outside of entities")
            given = [OUTSIDE, *(f"{mark}-{name}" for name in given for mark in "BI")]
        for name in given:
            if name != OUTSIDE and (name[:2] not in ("B-", "I-") or len(name) == 2):
                raise ValueError(f"{name!r} is not {OUTSIDE}, B-TYPE or I-TYPE")
        self.names = tuple(given)
        self.types = tuple(dict.fromkeys(name[2:] for name in given if name != OUTSIDE))
        self._index = {name: index for index, name in enumerate(given)}

    def tags(self, entities: Sequence[Entity], count: int) -> list[int]:
        """Indices of the tags of `count` words with these entities, whose bounds are words."""
        found = [self._index[OUTSIDE]] * count
        for start, end, label in entities:
            for word in range(start, min(end, count)):
                found[word] = self._of("B" if word == start else "I", label)
        return found

    def entities(self, tags: Sequence[int]) -> list[Entity]:
        """Entities of tags, one for each word; the bounds are words."""
        return list(entities_of([self.names[tag] for tag in tags]))

    def read(self, tags: Sequence[int], places: Sequence[int], count: int) -> list[Entity]:
        """Entities that a model finds among `count` words.

        Args:
            tags: of the words that have a token of their own.
            places: as `data.words.places_of`, of the words that were read. A word without a token continues the one
                before it; beyond the last word that was read nothing is found.
        """
        given = iter(tags)
        names: list[str] = []
        for place in places:
            if place >= 0:
                names.append(self.names[next(given)])
            else:
                before = names[-1] if names else OUTSIDE
                names.append(before if before == OUTSIDE else f"I-{before[2:]}")
        assert len(names) <= count
        return list(entities_of(names))

    def _of(self, mark: str, label: str) -> int:
        """A head without B- for a type begins its entities with I-, and the other way round."""
        other = "I" if mark == "B" else "B"
        index = self._index.get(f"{mark}-{label}", self._index.get(f"{other}-{label}"))
        assert index is not None, label
        return index


def entities_of(names: Sequence[str]) -> Iterator[Entity]:
    """Entities of the tags of words; the bounds are words."""
    begin, label = 0, ""
    for word, name in enumerate([*names, OUTSIDE]):
        mark, own = (name[0], name[2:]) if name != OUTSIDE else (OUTSIDE, "")
        if label and (mark != "I" or own != label):
            yield Entity(begin, word, label)
            label = ""
        if own and not label:
            begin, label = word, own


def strays(names: Sequence[str]) -> int:
    """Count of I- tags that continue nothing."""
    pairs = pairwise([OUTSIDE, *names])
    return sum(name[:2] == "I-" and before[2:] != name[2:] for before, name in pairs)


def in_words(entities: Sequence[Entity], words: Sequence[tuple[int, int]]) -> list[Entity] | None:
    """Entities over characters as entities over words; None where one begins or ends inside a word."""
    first = {start: word for word, (start, _) in enumerate(words)}
    last = {end: word + 1 for word, (_, end) in enumerate(words)}
    if any(start not in first or end not in last for start, end, _ in entities):
        return None
    return [Entity(first[start], last[end], label) for start, end, label in entities]


def in_characters(entities: Sequence[Entity], words: Sequence[tuple[int, int]]) -> list[Entity]:
    """Entities over words as entities over characters."""
    return [Entity(words[start][0], words[end - 1][1], label) for start, end, label in entities]


def written(entities: Sequence[Entity]) -> str:
    """Entities over characters as the response of a row."""
    return json.dumps([list(entity) for entity in entities], ensure_ascii=False)


def parsed(response: str) -> list[Entity]:
    """What `written` wrote."""
    return [Entity(*entity) for entity in json.loads(response)]
