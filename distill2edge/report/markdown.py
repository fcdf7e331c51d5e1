"""The report as Markdown, for terminals, reviews and repositories."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from distill2edge.report import claims, cost_words, facts, quantization, tables
from distill2edge.report.html import check_version
from distill2edge.report.section_list import SECTIONS
from distill2edge.report.sections import cost_section, judge_section, rounds_section, speed_section
from distill2edge.report.tables import Table

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


def block(value: str) -> str:
    """A fenced block that its content cannot close."""
    longest = max((len(run) for run in re.findall(r"`{3,}", value)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{value}\n{fence}"


def render_table(table: Table | None) -> str:
    """One table with its title and note; nothing for None."""
    if table is None:
        return ""
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


def _list(items: Sequence[Sequence[str | None]]) -> str:
    return "\n".join(f"- {escape(item[0])}: {escape(item[1])}" for item in items)


def render_markdown(report: Document) -> str:
    """report.json as Markdown.

    Raises:
        UserError: the schema version is not ours.
    """
    check_version(report)
    verdict = report["verdict"]
    parts = [
        f"# {escape(report['name'])}: {verdict['result'].upper()}",
        f"{escape(verdict['summary'])} {escape(claims.lead(report))}",
        "\n".join(f"- **Warning:** {escape(warning['text'])}" for warning in facts.warnings(report)),
        *[f"**{escape(item['model'])} could not be run:** {escape(item['error'])}" for item in verdict["errors"]],
        "\n".join(
            f"- **{escape(name)}: {escape(value)}** ({escape(beside)})" for name, value, beside in claims.tiles(report)
        ),
    ]
    bodies = _bodies(report)
    for section in SECTIONS:
        body = [part for part in bodies.get(section.anchor, ()) if part]
        parts += [f"## {section.heading}", *body] if body else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _bodies(report: Document) -> dict[str, list[str]]:
    """What stands in each section; charts are the page's alone."""
    cost, bench = report["cost"] or {}, report["bench"]
    busy, command = facts.contention(report), report["reproduce"]["command"]
    return {
        "gates": [render_table(tables.gates_table(report)) or "The recipe sets no gates, and none holds by default."],
        "files": [
            render_table(tables.files_table(report)),
            render_table(quantization.frontier_table(report)),
            render_table(quantization.quantization_table(report)),
            render_table(tables.survival_table(report)),
        ],
        "quality": [
            render_table(tables.models_table(report)),
            render_table(tables.seeds_table(report)),
            render_table(tables.distances_table(report)),
            render_table(tables.samples_table(report)),
        ],
        "judge": [render_table(judge_section.judge_table(report)), render_table(judge_section.judge_samples(report))],
        "speed": [
            f"**{escape(busy)}**" if busy else "",
            *[render_table(speed_section.bench_table(report, str(w["name"]))) for w in bench.get("workloads", [])],
            render_table(speed_section.speedup_table(report)),
        ],
        "cost": [
            "\n".join(escape(sentence) for sentence in cost_words.cost_sentences(report)),
            render_table(cost_section.four_table(report)),
            render_table(cost_section.busy_table(report)),
            render_table(cost_section.price_cut_table(report)),
            render_table(cost_section.cost_table(report)),
            render_table(cost_section.prices_table(report)),
            "\n".join(f"- {escape(note)}" for note in cost.get("notes", [])),
        ],
        "rounds": [render_table(rounds_section.rounds_table(report))],
        "training": [_list(facts.training_facts(report))],
        "licence": [_list(facts.licence_facts(report))],
        "data": [_list(facts.data_facts(report))],
        "synthetic": [_list(facts.ledger_facts(report))],
        "reproduce": [
            block(str(command)) if command else "",
            _list(facts.environment_facts(report)),
            render_table(tables.stages_table(report)),
        ],
    }
