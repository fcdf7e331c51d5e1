"""The recipe as a run keeps and tells it: in the run directory it runs as it stands; what ships names no folders."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from distill2edge.errors import UserError
from distill2edge.recipe import yaml12
from distill2edge.recipe.load import read_recipe
from distill2edge.recipe.paths import located, start_of
from distill2edge.recipe.schema import Recipe
from distill2edge.recipe.section import files_of
from distill2edge.util.files import without_folders

_KEY = ("folder",)


def kept_text(text: str, recipe: Recipe, out: Path) -> str:
    """The text of a recipe for another directory: its relative paths still start where they did.

    Args:
        text: as the user wrote it; comments stay.
        recipe: the same, loaded.
        out: the directory that the text is for.
    """
    starts = {start for path in located(recipe) if (start := start_of(path)) is not None}
    if not starts:
        return text
    # Paths found from the recipe's folder and others from the current one alone cannot both start at one place.
    start = next(iter(starts)) if len(starts) == 1 else next(iter(located(recipe))).folder or Path()
    try:
        folder = Path(os.path.relpath(start.resolve(), out.resolve())).as_posix()
    except ValueError:  # another drive
        folder = start.resolve().as_posix()
    return _changed(text, {}, None if folder == "." else folder)


def told_text(path: Path) -> str:
    """The text of a recipe's file for other people: of a local path its last part, as a model card names it.

    Raises:
        UserError: there is no recipe in it.
    """
    recipe = read_recipe(path).recipe
    if recipe is None:
        raise UserError("this is no recipe", where=str(path), fix="run its recipe again")
    return _changed(yaml12.read_text(path), _told(recipe), None)


def run_command(recipe: Recipe, seeds: Sequence[int] = ()) -> str:
    """The command that runs a recipe again in its run directory.

    Args:
        seeds: of a run of several.
    """
    plugins = "".join(f" --plugin {shlex.quote(path.name)}" for path in files_of(recipe))
    return f"distill2edge{plugins} run recipe.yaml" + (f" --seeds {','.join(map(str, seeds))}" if seeds else "")


def told(document: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A document for other people: of every local path that the recipe names its last part."""
    replaced: dict[str, Any] = _replaced(document, _told(recipe))
    return replaced


def _told(recipe: Recipe) -> dict[str, str]:
    return {str(path): name for path in located(recipe) if (name := without_folders(path)) != path}


def _replaced(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def _changed(text: str, names: dict[str, str], folder: str | None) -> str:
    """The text with other names and another folder; where it cannot be edited as text, written anew."""
    document, lines, _ = yaml12.parse_document(text, "recipe.yaml")
    wanted = _replaced({key: value for key, value in document.items() if key != "folder"}, names)
    rows = text.split("\n")
    place = lines.get(_KEY)
    if place is not None:
        del rows[place - 1]
    if folder is not None:
        wanted = {**wanted, "folder": folder}
        first = place or min(line for path, line in lines.items() if len(path) == 1)
        rows.insert(first - 1, f"folder: {json.dumps(folder, ensure_ascii=False)}  # where relative paths below start")
    edited = "\n".join(rows)
    for name in sorted(names, key=len, reverse=True):
        edited = edited.replace(name, names[name])
    try:
        if yaml12.parse_document(edited, "recipe.yaml").value == wanted:
            return edited
    except UserError:
        pass  # a mapping in braces, a value over several lines
    return str(yaml.safe_dump(wanted, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100))
