"""Fields that the templates of a recipe name, held against those that the first rows have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill2edge.data.row_errors import chat_fix, filter_for
from distill2edge.data.tables import header_fix, headless
from distill2edge.data.templates import Filter, Template
from distill2edge.errors import Problem
from distill2edge.recipe.schema import Data
from distill2edge.util.file_kinds import endings
from distill2edge.util.nearest import meant

_TOLERANT = ("is defined", "is not defined", "default(", "|d(", "is undefined")  # a field may be missing


def missing(
    data: Data, templates: dict[str, Template | Filter], rows: list[dict[str, Any]], files: list[Path]
) -> Iterator[Problem]:
    """Fields that a template names and no row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = next((path for path in files[:1] if endings(path)[0] in (".csv", ".tsv")), None)
    value = headless(columns, rows) if table is not None else None
    for key, template in templates.items():
        text = str(getattr(data, key)).replace(" ", "")
        if any(word.replace(" ", "") in text for word in _TOLERANT):
            continue
        if isinstance(template, Template) and not template.fields:
            yield from _constant(key, str(getattr(data, key)), columns, bool(data.choices))
        for name in sorted(template.fields - set(columns)):
            near = meant(name, columns, 0.5).strip() or filter_for(name)
            if table is not None and value is not None and not near:
                near = header_fix(table, columns)
            fix = near or chat_fix(rows[0]) or f"name one of those in data.{key}"
            listed = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
            yield Problem(
                ("data", key), f"no row of {data.source} has a field {name!r}; their fields are {listed}", fix
            )


def _constant(key: str, source: str, columns: list[str], choices: bool) -> Iterator[Problem]:
    """A template that names no field, and so prints the same for every row."""
    if len(source) > 500:
        return
    meant_ = re.sub(r"\$?\{(\w+)\}|<(\w+)>|\[(\w+)\]", lambda found: _as_field(found, columns), source)
    if source.strip() in columns:
        meant_ = f"{{{{ {source.strip()} }}}}"
    if meant_ != source or key == "response":
        what = f"it names no field, and prints {source[:60]!r} for every row"
        fix = f'write data.{key}: "{meant_}"' if meant_ != source else "name a field, as in {{ " + columns[-1] + " }}"
        yield Problem(("data", key), what, fix)


def _as_field(found: re.Match[str], columns: list[str]) -> str:
    name = next(part for part in found.groups() if part)
    return f"{{{{ {name} }}}}" if name in columns else found[0]
