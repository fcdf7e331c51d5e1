"""Rows of words with tags, or of a text with entities: one text and its entities of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from distill2edge.data.conversation_forms import Unusable
from distill2edge.data.row_errors import names, shown
from distill2edge.data.words import words_of
from distill2edge.errors import UserError
from distill2edge.models.tags import OUTSIDE, Entity, TagSet, entities_of, in_words, strays
from distill2edge.util.nearest import meant

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Data

_TOKENS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "labels", "ner")
_TEXT = ("text", "sentence", "source_text", "full_text", "content")
_SPANS = ("entities", "spans", "privacy_mask", "labels", "label")
_TYPE = ("label", "type", "entity_type", "entity_group", "entity", "tag")
WHERE = "data.entities"


class EntityRows:
    """Reads them.

    Attributes:
        strays: I- tags that continued nothing; they are read as the beginning of an entity.
    """

    def __init__(self, data: Data) -> None:
        """Of the section's `entities` and `choices`.

        Raises:
            UserError: choices that are no tags.
        """
        try:
            self._named, self.tagset = data.entities, TagSet(data.choices or ())
        except ValueError as error:
            fix = "name the types of entities alone"
            raise UserError(str(error), where="data.choices", fix=fix) from error
        self._optional = data.response is None or data.unlabelled is not None
        self._unlabelled = data.response is None
        self.strays = 0

    def read(self, row: Mapping[str, Any], number: int) -> tuple[str, list[Entity] | None]:
        """Text and entities (over its characters) of a row; no entities where it has no tags, if that is allowed.

        Raises:
            Unusable: no text or no tags, a blank word, an entity that begins or ends inside a word.
            UserError: fields that are missing or of another form, tags that do not pair with the words or are none of
                the choices, entities that overlap or lie outside of the text.
        """
        if key := self._field(row, "tokens", _TOKENS):
            return self._of_tokens(row, key, number)
        if key := self._field(row, "text", _TEXT):
            return self._of_text(row, key, number)
        raise _wrong(
            number,
            f"neither a list of words ({', '.join(_TOKENS)}) nor a text ({', '.join(_TEXT)}) is in its fields: "
            f"{names(row)}",
            "name them: data.entities: {tokens: ..., tags: ...} or {text: ..., spans: ...}",
        )

    def _field(self, row: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
        """The field that holds this; empty where there is none."""
        asked = None if self._named is None else getattr(self._named, name)
        if asked is not None:
            return asked if asked in row else ""
        if self._named is not None and name == "tokens" and self._named.text is not None:
            return ""
        return next((field for field in known if row.get(field) is not None), "")

    def _given(self, row: Mapping[str, Any], name: str, known: Sequence[str], number: int) -> Any:
        """The list of tags or entities; None where the row has none and need not.

        Raises:
            Unusable: it has none, and needs one.
        """
        field = "" if self._unlabelled else self._field(row, name, known)
        value = _listed(row.get(field)) if field else None
        if value is None and not self._optional:
            asked = None if self._named is None else getattr(self._named, name)
            if (asked is None and not any(each in row for each in known)) or (asked is not None and asked not in row):
                near = meant(asked or name, list(row)).strip()
                what = f"it has no field {asked or ' or '.join(known)}; its fields are {names(row)}"
                raise _wrong(number, what, near or f"name it in data.entities.{name}")
            raise Unusable("empty")
        if value is not None and not isinstance(value, list):
            raise _wrong(number, f"{field} is no list", "give one entry for each word, or for each entity")
        return value

    def _of_tokens(self, row: Mapping[str, Any], key: str, number: int) -> tuple[str, list[Entity] | None]:
        words = _listed(row[key])
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise _wrong(number, f"{key} is no list of texts", "give a list of words")
        if not words:
            raise Unusable("empty")
        if any(not words_of(word) for word in words):
            raise Unusable("blank_word")
        text = " ".join(words)
        given = self._given(row, "tags", _TAGS, number)
        if given is None:
            return text, None
        if len(given) != len(words):
            raise _wrong(number, f"{len(words)} words and {len(given)} tags", "give one tag for each word")
        tags = [self._tag(tag, number) for tag in given]
        self.strays += strays(tags)
        ends = [0]
        for word in words:
            ends.append(ends[-1] + len(word) + 1)
        spans = [(begin, end - 1) for begin, end in pairwise(ends)]
        found = []
        for first, last, label in entities_of(tags):
            begin, end = spans[first][0], spans[last - 1][1]
            inside = text[begin:end]
            begin += len(inside) - len(inside.lstrip())
            found.append(Entity(begin, begin + len(inside.strip()), label))
        return text, found

    def _tag(self, tag: Any, number: int) -> str:
        known = self.tagset.names
        if isinstance(tag, int) and not isinstance(tag, bool):
            if not 0 <= tag < len(known):
                what = f"the tag {tag}, and data.choices has {len(known)} tags: 0 is {known[0]}, 1 is {known[1]}, ..."
                raise _wrong(number, what, "name all tags in data.choices, in the order of their numbers")
            return known[tag]
        name = str(tag).strip()
        if name != OUTSIDE and (name[:2] not in ("B-", "I-") or name[2:] not in self.tagset.types):
            raise self._not_a_choice(name, name[2:] if name[:2] in ("B-", "I-") else name, number)
        return name

    def _not_a_choice(self, said: str, label: str, number: int) -> UserError:
        near = meant(label, list(self.tagset.types)).strip()
        types = ", ".join(self.tagset.types)
        what = f"the tag {shown(said[:60])!r} is not O, B- or I- with one of the types of data.choices ({types})"
        fix = f"name {shown(label[:40])} in data.choices, or leave such rows out with data.filter"
        return UserError(f"row {number}: {what}", where="data.choices", fix=f"{near} {fix}".strip())

    def _of_text(self, row: Mapping[str, Any], key: str, number: int) -> tuple[str, list[Entity] | None]:
        text = row[key]
        if not isinstance(text, str):
            raise _wrong(number, f"{key} is no text", "name the field of the text: data.entities: {text: ...}")
        if not text.strip():
            raise Unusable("empty")
        given = self._given(row, "spans", _SPANS, number)
        if given is None:
            return text, None
        found = sorted(self._entity(entity, text, number) for entity in given)
        for before, after in pairwise(found):
            if after.start < before.end:
                what = f"the entities {_quoted(text, before)} and {_quoted(text, after)} overlap"
                raise _wrong(number, what, "give each word one entity, or leave such rows out with data.filter")
        if in_words(found, words_of(text)) is None:
            raise Unusable("split_word")
        return text, found

    def _entity(self, entity: Any, text: str, number: int) -> Entity:
        label: Any = None
        if isinstance(entity, Mapping):
            label = next((entity[name] for name in _TYPE if entity.get(name) is not None), None)
            bounds = (entity.get("start"), entity.get("end"))
        elif isinstance(entity, list | tuple) and len(entity) == 3:
            *bounds, label = entity
        else:
            raise _wrong(number, "an entity is no {start, end, label}", "give the characters of each, and its type")
        if not isinstance(label, str) or not all(type(bound) is int for bound in bounds):
            raise _wrong(number, "an entity without a start, an end or a label", "give the characters and the type")
        start, end = bounds
        if not 0 <= start < end <= len(text):
            what = f"an entity from character {start} to {end} of a text of {len(text)}"
            raise _wrong(number, what, "count characters from 0; the end is the one after the last")
        if label.strip() not in self.tagset.types:
            raise self._not_a_choice(label.strip(), label.strip(), number)
        inside = text[start:end]
        start += len(inside) - len(inside.lstrip())
        if not inside.strip():
            raise _wrong(number, "an entity of blanks alone", "take it out")
        return Entity(start, start + len(inside.strip()), label.strip())


def _quoted(text: str, entity: Entity) -> str:
    return repr(shown(text[entity.start : entity.end][:60]))


def _listed(value: Any) -> Any:
    """A list that a table keeps as JSON, or as words with blanks between."""
    if not isinstance(value, str):
        return list(value) if isinstance(value, tuple) else value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value.split()
    return value.split() or None


def _wrong(number: int, what: str, fix: str) -> UserError:
    return UserError(f"row {number}: {what}", where=WHERE, fix=fix)
