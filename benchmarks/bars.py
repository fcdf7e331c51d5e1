"""Every bar of every result file, met or not: `python benchmarks/bars.py`, `--check` for the form of the files."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from common import OPERATORS, RESULTS, SCHEMA_VERSION
from rich.console import Console
from rich.table import Table

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int,
    "name": str,
    "command": str,
    "date": str,
    "machine": dict,
    "seeds": list,
    "bars": list,
    "metrics": dict,
    "samples": dict,
}


def problems(path: Path) -> list[str]:
    """What is wrong with a result file; empty when nothing is."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return [f"{path.name}: not readable as JSON: {error}"]
    if not isinstance(document, dict):
        return [f"{path.name}: not an object"]
    found = []
    for field, kind in _FIELDS.items():
        if field not in document:
            found.append(f"{field} is missing")
        elif not isinstance(document[field], kind):
            found.append(f"{field} is a {type(document[field]).__name__}")
    if found:
        return [f"{path.name}: {each}" for each in found]
    if document["schema_version"] != SCHEMA_VERSION:
        found.append(f"schema_version {document['schema_version']}, not {SCHEMA_VERSION}")
    if document["name"] != path.stem:
        found.append(f"calls itself {document['name']!r}")
    if not document["samples"]:
        found.append("no raw samples")
    if not document["command"].strip():
        found.append("no command")
    for index, bar in enumerate(document["bars"]):
        found += [f"bars[{index}]: {each}" for each in _bar_problems(bar)]
    return [f"{path.name}: {each}" for each in found]


def _bar_problems(bar: Any) -> list[str]:
    if not isinstance(bar, dict):
        return ["not an object"]
    missing = [key for key in ("name", "op", "target", "value", "met") if key not in bar]
    if missing:
        return [f"{', '.join(missing)} missing"]
    if bar["op"] not in OPERATORS:
        return [f"op {bar['op']!r} is none of {', '.join(OPERATORS)}"]
    if not _is_number(bar["target"]) or not (bar["value"] is None or _is_number(bar["value"])):
        return ["target and value are numbers (value may be null)"]
    met = bar["value"] is not None and OPERATORS[bar["op"]](bar["value"], bar["target"])
    return [] if bar["met"] is met else [f"says met: {bar['met']}, but {bar['value']} {bar['op']} {bar['target']}"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def render(files: list[Path], console: Console) -> tuple[int, int]:
    """Print one row for each bar of the sound files.

    Returns:
        Bars met, and bars in all.
    """
    table = Table(show_lines=False)
    for column in ("bar", "target", "value", "met", "file", "date"):
        table.add_column(column, overflow="fold", justify="right" if column in ("target", "value") else "left")
    met = total = 0
    commands: list[tuple[str, str]] = []
    for path in files:
        document = json.loads(path.read_text())
        commands.append((path.stem, document["command"]))
        for bar in document["bars"]:
            total += 1
            met += bar["met"]
            note = f"\n[dim]{_plain(bar['note'])}[/dim]" if bar.get("note") else ""
            table.add_row(
                _plain(bar["name"]) + note,
                f"{bar['op']} {bar['target']:.4g} {_plain(bar.get('unit', ''))}".rstrip(),
                _value(bar),
                "[green]yes[/green]" if bar["met"] else "[red]NO[/red]",
                path.stem,
                document["date"][:10],
            )
    console.print(table)
    for stem, command in commands:
        console.print(f"{stem}: {command}", markup=False, highlight=False)
    return met, total


def _value(bar: dict[str, Any]) -> str:
    if bar["value"] is None:
        return "not measured"
    text = f"{bar['value']:.4g} {_plain(bar.get('unit', ''))}".rstrip()
    if bar.get("interval"):
        low, high = bar["interval"]
        text += f"\n[dim]{low:.4g} to {high:.4g}[/dim]"
    return text


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def main(argv: list[str] | None = None) -> int:
    """Print the bars; with `--check`, 1 where a file is malformed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 when a result file is malformed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="directory of the result files")
    arguments = parser.parse_args(argv)
    files = sorted(arguments.results.glob("*.json"))
    wrong = {path: told for path in files if (told := problems(path))}
    console = Console(width=None if sys.stdout.isatty() else 160)
    met, total = render([path for path in files if path not in wrong], console)
    console.print(f"{met} of {total} bars met, in {len(files)} result files")
    for told in wrong.values():
        for each in told:
            console.print(f"malformed: {each}", markup=False, style="red")
    return 1 if arguments.check and wrong else 0


if __name__ == "__main__":
    sys.exit(main())
