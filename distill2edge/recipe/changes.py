"""Values that are put into a recipe before it is checked: by `--set` on the command line, or in code."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distill2edge.errors import UserError
from distill2edge.recipe import yaml12
from distill2edge.recipe.words import shortened

Changes = Sequence[str] | Mapping[str, Any]
"""`a.b=VALUE` strings, as `--set` takes them, or values by dotted keys."""

_OPTION, _ARGUMENT = "--set", "changes"


def change(document: dict[str, Any], changes: Changes, written: dict[yaml12.Path, str]) -> dict[yaml12.Path, str]:
    """Put changes into the document of a recipe.

    Args:
        written: takes the numbers among them as they are written.

    Returns:
        the path of each, and what errors call what changed it.

    Raises:
        UserError: a change that cannot be read, or that has no place in the document.
    """
    by, assignments = _assignments(changes)
    return {_put(document, assignment, written, by): by for assignment in assignments}


def _assignments(changes: Changes) -> tuple[str, list[str]]:
    """What errors call the changes, and each as `a.b=VALUE`."""
    if isinstance(changes, str):
        return _OPTION, [changes]
    if not isinstance(changes, Mapping):
        return _OPTION, list(changes)
    try:
        values = {key: json.dumps(value, ensure_ascii=False, default=_plain) for key, value in changes.items()}
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"not a value of a recipe: {error}", where=_ARGUMENT, fix="give what YAML can write") from None
    for key in values:
        if not isinstance(key, str) or "=" in key:
            raise UserError(f"{shortened(key)} is no key", where=_ARGUMENT, fix=_how(_ARGUMENT, "a.b", "VALUE"))
    return _ARGUMENT, [f"{key}={value}" for key, value in values.items()]


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"{shortened(value)}")


def _how(by: str, key: str, value: str) -> str:
    """How a change is written."""
    return f"--set {shlex.quote(f'{key}={value}')}" if by == _OPTION else f'{{"{key}": {value}}}'


def _put(document: dict[str, Any], assignment: str, scalars: dict[yaml12.Path, str], by: str) -> yaml12.Path:
    """Put one `a.b=VALUE` into the document, and its numbers as they are written into `scalars`; returns its path."""
    written, equals, value = assignment.partition("=")
    written = written.strip()
    parts = written.replace("[", ".").replace("]", "").split(".")  # export[0] as errors write it, or export.0
    if not equals or not all(parts) or len(parts) > 16:
        named = written if re.fullmatch(r"[\w.]+", written) and not equals else "student.lora.rank"
        shown = shortened(assignment if by == _OPTION else written)
        raise UserError(f"cannot read {shown}", where=by, fix=f"write {_how(by, named, 'VALUE')}")
    here: Any = document
    path: list[str | int] = []
    for depth, part in enumerate(parts):
        key: str | int = part
        if isinstance(here, list):
            key = int(part) if part.isascii() and part.isdigit() and len(part) < 9 else -1
            if not 0 <= key < len(here):
                raise UserError(
                    f"{yaml12.dotted(tuple(path))} has {len(here)} entries, and {part!r} is none of them",
                    where=f"{by} {written}",
                    fix="count from 0, or give the whole list: " + _how(by, "export", '["gguf:Q8_0"]'),
                )
        elif not isinstance(here, dict):
            above, name = ".".join(parts[:depth]), yaml12.dotted(tuple(path))
            fix = f"set {above} itself to a section: {_how(by, above, f'{{{part}: ...}}')}"
            raise UserError(f"{name} is {shortened(here)}, not a section", where=f"{by} {written}", fix=fix)
        path.append(key)
        if depth == len(parts) - 1:
            found = yaml12.parse_value(value, by)
            here[key] = found.value
            scalars |= {(*path, *inside): text for inside, text in found.written.items()}
        else:
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
            here = here[key]
    return tuple(path)
