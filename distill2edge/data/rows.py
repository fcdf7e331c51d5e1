"""A source's rows through filter and templates: what is taken, and what is dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill2edge.data.choice_matching import Choices, not_a_choice
from distill2edge.data.encode import Row, row_id
from distill2edge.data.row_errors import check_text
from distill2edge.data.selection import Item
from distill2edge.data.templates import Filter, Template
from distill2edge.data.values import MISSING
from distill2edge.recipe import schema

# Reasons for which a row is dropped, as users read them.
REASONS = {
    "filter": "left out by data.filter",
    "empty": "without a prompt or a response",
    "duplicate": "with prompt and response of another row",
    "leaking": "too near to a test row",
    "not_needed": "not needed",
}


@dataclass
class Dropped:
    """Rows that were not taken.

    Attributes:
        counts: by reason, the keys of `REASONS`.
        examples: the first row number of each reason, as `train 7`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, split: str, number: int) -> None:
        """Count one row."""
        self.counts[reason] += 1
        if reason not in self.examples:
            self.examples[reason] = f"{split} {number}" if split else str(number)

    def text(self) -> str:
        """For people: how many, why, and where the first of them is; empty where none was."""
        parts = []
        for reason, meaning in REASONS.items():
            if count := self.counts[reason]:
                example = f" (the first is row {self.examples[reason]})" if reason in self.examples else ""
                parts.append(f"{count:,} {meaning}{example}")
        return ", ".join(parts)


class Rows:
    """Makes rows of prompt and response of the fields of a source's rows.

    Raises:
        UserError: a template or filter that is not valid.
    """

    def __init__(self, data: schema.Data) -> None:
        self._choices = data.choices or ()
        self._known = Choices(self._choices)
        missing = MISSING - {choice.strip() for choice in self._choices}
        self.prompt = Template(data.prompt, "data.prompt", missing) if data.template != "text" else None
        self.response = Template(data.response, "data.response", missing)
        self._takes = Filter(data.filter, "data.filter") if data.filter else None

    @property
    def shared(self) -> bool:
        """Whether the prompt prints a whole field that the response is made of."""
        return self.prompt is not None and bool(self.prompt.whole & self.response.fields)

    def items(self, rows: Iterable[Mapping[str, Any]], dropped: Dropped, split: str = "") -> Iterator[tuple[int, Item]]:
        """Rows that are taken, each with its number in the source; the number of the last one read is the last given.

        Args:
            dropped: counts those that are not.
            split: names the rows' split in `dropped`.

        Raises:
            UserError: a row that the templates refuse, or whose response is not a choice; names row and field.
        """
        for number, fields in enumerate(rows, 1):
            if self._takes and not self._takes.takes(fields, number):
                dropped.add("filter", split, number)
                continue
            item = self._item(fields, number)
            if item is None:
                dropped.add("empty", split, number)
            else:
                yield number, item

    def _item(self, fields: Mapping[str, Any], number: int) -> Item | None:
        if self.prompt:
            question, content = self.prompt.render_with_content(fields, number)
            answer = self.response.render(fields, number)
        else:
            question = ""
            answer, content = self.response.render_with_content(fields, number)
        if not answer.strip() or (self.prompt and not question.strip()):
            return None
        check_text(question, "data.prompt", number)
        check_text(answer, "data.response", number)
        label = -1
        if self._choices:
            found = self._known.index(answer)
            if found is None:
                raise not_a_choice(answer, self._choices, self.response, fields, number)
            label, answer = found, self._choices[found]
        row = Row(row_id(question, answer), question, answer, label)
        return Item(row, content)
