"""The report as Markdown, for terminals, reviews and repositories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from distill2edge.report import claims
from distill2edge.report.blocks import Beside, Block, Code, Facts, Listing, Notes, Paragraph, Section, Table
from distill2edge.report.schema_version import check_version
from distill2edge.report.section_list import SECTIONS, shown

Document = dict[str, Any]


def escape(value: object) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line."""
    line = " ".join(str(value).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\*_\[\]|~#])", r"\\\1", line).replace("`", "&#96;")


def code(value: object) -> str:
    """Inline code, with a fence longer than any run of backticks inside."""
    line = " ".join(str(value).split()).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def fenced(value: str) -> str:
    """A fenced block that its content cannot close."""
    longest = max((len(run) for run in re.findall(r"`{3,}", value)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{value}\n{fence}"


def render_block(block: Block) -> str:
    """One block; nothing for what the page alone has."""
    match block:
        case Table():
            return _table(block)
        case Paragraph():
            said = "".join(code(part.text) if isinstance(part, Code) else _within(part) for part in block.said)
            return {"warning": f"**{said}**", "note": f"_{said}_"}.get(block.kind, said)
        case Facts():
            return "\n".join(f"- {escape(fact.name)}: {escape(fact.value)}" for fact in block.facts)
        case Notes():
            return "\n".join(f"- {escape(note)}" for note in block.notes)
        case Listing():
            return fenced(block.text)
        case Beside():
            return render_blocks(block.blocks)
        case _:
            return ""


def render_blocks(blocks: Sequence[Block]) -> str:
    """Blocks under one another."""
    return "\n\n".join(said for block in blocks if (said := render_block(block)))


def _within(part: str) -> str:
    """A part of a paragraph: the spaces that part it from its neighbours stay."""
    before, after = (" " if edge.isspace() else "" for edge in (part[:1], part[-1:]))
    return f"{before}{escape(part)}{after}"


def _table(table: Table) -> str:
    lines = [f"**{escape(table.title)}**", ""] if table.title else []
    lines.append("| " + " | ".join(escape(name) for name in table.head) + " |")
    lines.append("|" + "|".join("---" if index < table.left else "--:" for index in range(len(table.head))) + "|")
    for cells in table.rows:
        written = []
        for cell in cells:
            said = code(cell.text) if "mono" in cell.kind and cell.text else escape(cell.text)
            if cell.link:
                said = f"[{said}](<{quote(cell.link, safe='/:?#&=%@+,;~')}>)"
            if cell.beside:
                said += f" ({escape(cell.beside)})"
            written.append(f"**{said}**" if "bad" in cell.kind.split() else said)
        lines.append("| " + " | ".join(written) + " |")
    if table.note:
        lines += ["", f"_{escape(table.note)}_"]
    return "\n".join(lines)


def render_markdown(report: Document, sections: Sequence[Section] = SECTIONS) -> str:
    """report.json as Markdown. A section of pictures alone is the page's.

    Raises:
        UserError: the schema version is not ours.
    """
    check_version(report)
    verdict = report["verdict"]
    parts = [
        f"# {escape(report['name'])}: {verdict['result'].upper()}",
        f"{escape(verdict['summary'])} {escape(claims.lead(report))}",
        "\n".join(f"- **Warning:** {escape(warning['text'])}" for warning in claims.warnings(report)),
        *[f"**{escape(item['model'])} could not be run:** {escape(item['error'])}" for item in verdict["errors"]],
        "\n".join(
            f"- **{escape(name)}: {escape(value)}** ({escape(beside)})" for name, value, beside in claims.tiles(report)
        ),
    ]
    for section, blocks in shown(report, sections):
        body = render_blocks(blocks)
        parts += [f"## {section.heading}", body] if body else []
    return "\n\n".join(part for part in parts if part) + "\n"
