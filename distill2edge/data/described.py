"""What data.json says of a split, counted as its rows are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from distill2edge.data.choice_sets import OneChoice
from distill2edge.data.examples import Row
from distill2edge.data.split_files import Digest


class Described(Digest):
    """Counts of a split.

    Attributes:
        bare: rows without a response.
        classes: rows of each class.
        responses: different responses, up to two.
        first: of the rows with a response, up to `FIRST`.
    """

    FIRST = 1000

    def __init__(self, closed: OneChoice | None) -> None:
        """`closed`: which classes a row has, where responses are choices."""
        super().__init__()
        self._closed = closed
        self.bare = 0
        self.classes: Counter[int] = Counter()
        self.responses: set[str] = set()
        self.first: list[Row] = []

    @property
    def answered(self) -> int:
        """Rows with a response."""
        return self.rows - self.bare

    def add(self, rows: Sequence[Row]) -> None:
        """As `Digest.add`."""
        super().add(rows)
        answered = [row for row in rows if row.response]
        self.bare += len(rows) - len(answered)
        self.first += answered[: self.FIRST - len(self.first)]
        if self._closed is not None:
            self.classes.update(label for row in answered for label in self._closed.classes(row))
            for row in answered:
                if len(self.responses) > 1:
                    break
                self.responses.add(row.response)

    def facts_with(self, choices: Sequence[str] | None) -> dict[str, Any]:
        """For data.json: rows and sha256, and where there are any without_response and the rows of each choice."""
        facts = self.facts
        if self.bare:
            facts["without_response"] = self.bare
        if choices and self._closed is not None and self.answered:
            facts["choices"] = {choice: self.classes[index] for index, choice in enumerate(choices)}
        return facts
