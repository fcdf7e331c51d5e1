"""Which runs of the list are shown, and in which order: what the filter's form asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill2edge.report.figures import value_of
from distill2edge.ui.runs import STATES, Listed

_LONGEST = 200  # characters of a text that is looked for


def _figure(name: str, falls: bool) -> Callable[[Listed], Any]:
    def key(run: Listed) -> Any:
        value = value_of(run.figures.get(name))
        return (value is None, (-value if falls else value) if value is not None else 0.0)

    return key


SORTS: Mapping[str, tuple[str, Callable[[Listed], Any] | None]] = {
    "newest": ("newest first", None),
    "name": ("name", lambda run: run.name),
    "kept": ("quality kept", _figure("retained", True)),
    "size": ("smallest file", _figure("size_bytes", False)),
    "time": ("fastest request", _figure("latency_ms", False)),
    "cost": ("cheapest request", _figure("cost_per_1000", False)),
}
"""Orders of the list: their words, and the key; None keeps the list's own."""


@dataclass(frozen=True)
class Choice:
    """What the form asks for; empty words ask for all.

    Attributes:
        text: words that stand in the name, the task or the file of a run, all of them.
        state, task: of the run.
        sort: one of `SORTS`.
    """

    text: str = ""
    state: str = ""
    task: str = ""
    sort: str = "newest"

    @property
    def chooses(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.text or self.state or self.task)

    def of(self, runs: Sequence[Listed]) -> list[Listed]:
        """The runs asked for, in order."""
        words = self.text.lower().split()
        found = [
            run
            for run in runs
            if (not self.state or run.state == self.state)
            and (not self.task or run.task == self.task)
            and all(word in f"{run.name} {run.task} {run.figures.get('file') or ''}".lower() for word in words)
        ]
        key = SORTS[self.sort][1]
        return found if key is None else sorted(found, key=key)


def read_choice(query: Mapping[str, str]) -> Choice:
    """The choice of an address; what it does not know asks for all."""
    state, sort = query.get("state", ""), query.get("sort", "")
    return Choice(
        query.get("text", "")[:_LONGEST].strip(),
        state if state in STATES else "",
        query.get("task", "")[:_LONGEST],
        sort if sort in SORTS else "newest",
    )
