"""Responses that are sets: any of the choices, or none of them. A missing response is not the empty set."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill2edge.data.choice_matching import Choices, not_a_choice
from distill2edge.data.examples import Row
from distill2edge.data.row_errors import shown
from distill2edge.data.templates import Template
from distill2edge.errors import UserError
from distill2edge.recipe import schema
from distill2edge.util.nearest import nearest

LISTED = "["
"""How a text begins that holds a list."""
_LONGEST = 100_000  # characters of a list
_USUAL = (",", ";", "|", "/")
EMPTY = "{{ %s or '[]' }}"
"""How a template says that a text without anything in it is the empty set."""


class OneChoice:
    """A response is one of the choices."""

    sets = False

    def __init__(self, choices: Sequence[str]) -> None:
        self._choices, self._known = choices, Choices(choices)

    def read(self, answer: str, response: Template, fields: Mapping[str, Any], number: int) -> tuple[int, str]:
        """A rendered response -> `Row.label` and `Row.response`.

        Args:
            response: the template that printed it, of row `number` with these fields.

        Raises:
            UserError: it is none of the choices.
        """
        known = self._known.index(answer)
        if known is None:
            raise not_a_choice(answer, self._choices, response, fields, number)
        return known, self._choices[known]

    def classes(self, row: Row) -> tuple[int, ...]:
        """The choices that a row has."""
        return () if row.label < 0 else (row.label,)


class ChoiceSet(OneChoice):
    """A response is a set of the choices; in a `Row` it is a JSON list of them in their order, `[]` for none."""

    sets = True

    def __init__(self, choices: Sequence[str], separator: str | None) -> None:
        super().__init__(choices)
        self._separator = separator
        self._names = [choice.strip() for choice in choices]

    def read(self, answer: str, response: Template, fields: Mapping[str, Any], number: int) -> tuple[int, str]:
        """As `OneChoice.read`: a JSON or Python list, one choice, or several with the separator between them."""
        text = answer.strip()
        found = set()
        for label in self._listed(text, number) if text.startswith(LISTED) else self._parts(text):
            known = self._known.index(label)
            if known is None:
                raise self._unknown(label, text, response, number)
            found.add(known)
        return -1, json.dumps([self._names[index] for index in sorted(found)], ensure_ascii=False)

    def classes(self, row: Row) -> tuple[int, ...]:
        """As `OneChoice.classes`."""
        return set_of(row.response, self._names) or ()

    def _parts(self, text: str) -> list[str]:
        if self._separator is None or self._known.index(text) is not None:
            return [text]
        return [part for part in text.split(self._separator) if part.strip()]

    def _listed(self, text: str, number: int) -> list[str]:
        where, what = "data.response", f"row {number}: the response {shown(text[:80])!r}"
        values: Any = None
        if len(text) <= _LONGEST:
            for parse in (json.loads, ast.literal_eval):
                try:
                    values = parse(text)
                    break
                except (ValueError, SyntaxError, RecursionError, MemoryError):
                    continue
        if not isinstance(values, list):
            fix = "write a JSON list: {{ labels | tojson }}, or correct that row"
            raise UserError(f"{what} begins as a list, and is none", where=where, fix=fix)
        wrong = [value for value in values if isinstance(value, bool) or not isinstance(value, str | int | float)]
        if wrong:
            said = f"{what} holds {json.dumps(wrong[0], default=str)[:40]}, and a set of labels holds texts"
            raise UserError(said, where=where, fix="correct that row, or leave such rows out with data.filter")
        return [str(value) for value in values]

    def _unknown(self, label: str, text: str, response: Template, number: int) -> UserError:
        listed = ", ".join(repr(name[:40]) for name in self._names[:20]) + (", ..." if len(self._names) > 20 else "")
        what = f"row {number}: the label {shown(label.strip()[:80])!r} is not one of data.choices ({listed})"
        if label == text:
            for mark in _USUAL:
                parts = [part.strip() for part in text.split(mark)]
                if len(parts) > 1 and all(self._known.index(part) is not None for part in parts if part):
                    return UserError(what, where=response.where, fix=f"set data.separator: {json.dumps(mark)}")
        near = nearest(label.strip(), self._names)
        hint = f"did you mean {near}? " if near else ""
        fix = f"{hint}correct that row, name the label in data.choices, or leave it out of data.response"
        return UserError(what, where=response.where, fix=fix)


def closed_of(data: schema.Data) -> OneChoice | None:
    """How a recipe's responses are read; None where they are open."""
    if not data.choices:
        return None
    return ChoiceSet(data.choices, data.separator) if data.multi else OneChoice(data.choices)


def set_of(response: str, names: Sequence[str]) -> tuple[int, ...] | None:
    """Indices of the labels of a `Row.response` that `ChoiceSet.read` wrote; None where the row has no response."""
    if not response:
        return None
    return tuple(names.index(name) for name in json.loads(response))
