"""What a report is made of: sections of blocks, words and figures without a format.

HTML and Markdown write each kind in their own way. Strings are as they are; who writes them escapes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from markupsafe import Markup

from distill2edge.report import figures

Document = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a kind that styles it (good, bad, weak, mono), an address it points to, and what stands
    under it in small type."""

    text: str
    kind: str = ""
    link: str | None = None
    beside: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `left` columns hold words, the others figures (to the right)."""

    title: str
    head: list[str]
    rows: list[list[Cell]]
    left: int = 1
    note: str = ""


@dataclass(frozen=True)
class Code:
    """A word of code within a paragraph."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Words; `kind` is "", `warning` or `note` (small type)."""

    said: tuple[str | Code, ...]
    kind: str = ""


@dataclass(frozen=True)
class Fact:
    """A name and what it is; an address that the value points to, where it has one."""

    name: str
    value: str
    address: str | None = None
    is_code: bool = False


@dataclass(frozen=True)
class Facts:
    """A list of facts."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Notes:
    """A list of remarks."""

    notes: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """Preformatted text: a command, which wraps, or a file."""

    text: str
    is_command: bool = False


@dataclass(frozen=True)
class Chart:
    """A drawing; the page alone shows it."""

    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Legend:
    """What the marks of the charts below mean: mark and words; the page alone shows it."""

    entries: tuple[tuple[Markup, str], ...]


@dataclass(frozen=True)
class Beside:
    """Blocks next to one another where the page is wide enough."""

    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Details:
    """What a reader of the page may unfold; the page alone has it."""

    summary: str
    blocks: tuple[Block, ...]


Block: TypeAlias = Table | Paragraph | Facts | Notes | Listing | Chart | Legend | Beside | Details


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        anchor: its address on the page (`#gates`).
        name: in the navigation, and on the model card.
        heading: over it.
        blocks: what of a report.json stands in it, in order; with nothing, the section is left out.
        on_card: whether its first table or list of facts stands on the model card too.
    """

    anchor: str
    name: str
    heading: str
    blocks: Callable[[Document], list[Block]]
    on_card: bool = False


def present(*blocks: Block | None) -> list[Block]:
    """Those that there are."""
    return [block for block in blocks if block is not None]


def beside(*blocks: Block | None) -> Beside | None:
    """Those that there are, next to one another."""
    found = present(*blocks)
    return Beside(tuple(found)) if found else None


def chart(svg: Markup | None, title: str, note: str = "") -> Chart | None:
    """A drawing with its title, where there is anything drawn."""
    return None if svg is None else Chart(title, svg, note)


def facts(found: Sequence[Fact]) -> Facts | None:
    """A list of facts, where there are any."""
    return Facts(tuple(found)) if found else None


def row(*values: str | Cell) -> list[Cell]:
    """A row of cells; plain strings become cells."""
    return [value if isinstance(value, Cell) else Cell(value) for value in values]


def figure(value: Any, write: Callable[[Any], str] = figures.number) -> Cell:
    """A figure with its interval under it."""
    return Cell(write(figures.value_of(value)), beside=figures.span(value, write))


def verdict_cell(passed: Any) -> Cell:
    """pass, fail, or no gates."""
    return Cell(
        figures.yes(passed), {True: "good", False: "bad", None: "weak"}[passed if passed is None else bool(passed)]
    )


def filled(title: str, head: list[str], rows: list[list[Cell]], note: str = "") -> Table:
    """A table without the columns that hold nothing in any row."""
    kept = [
        index for index in range(len(head)) if not index or any(cells[index].text != figures.MISSING for cells in rows)
    ]
    return Table(title, [head[i] for i in kept], [[cells[i] for i in kept] for cells in rows], note=note)
