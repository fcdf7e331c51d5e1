"""YAML -> Recipe, with every error at once, each with its line and the fix."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe import yaml12
from distill2edge.recipe.schema import Recipe


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        overrides: `a.b=VALUE` strings, applied before validation.

    Raises:
        UserError: no such file, or not YAML.
        RecipeErrors: all mistakes of the recipe.
    """
    if not path.is_file():
        raise UserError("no such recipe", where=str(path), fix=_nearest_recipe(path))
    return parse_recipe(path.read_text(encoding="utf-8"), str(path), overrides)


def parse_recipe(text: str, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """`load_recipe` on a text; `name` is how errors call it."""
    document, lines = yaml12.parse_document(text, name)
    for override in overrides:
        _override(document, override)
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeErrors(list(_explain(error, name, lines, document))) from None


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default visible; reads back to the same recipe."""
    import yaml

    content = recipe.model_dump(mode="json", by_alias=True)
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100))


def recipe_schema() -> str:
    """The JSON Schema of a recipe, for editors."""
    return json.dumps(Recipe.model_json_schema(by_alias=True), indent=2)


def _override(document: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise UserError(f"cannot read {override!r}", where="--set", fix="write --set student.lora.rank=32")
    *parents, last = path.strip().split(".")
    here: Any = document
    for part in parents:
        here = here[int(part)] if isinstance(here, list) and part.isdigit() else _step(here, part, path)
    if isinstance(here, list) and last.isdigit() and int(last) < len(here):
        here[int(last)] = yaml12.parse_value(value)
    elif isinstance(here, dict):
        here[last] = yaml12.parse_value(value)
    else:
        raise UserError(f"{path!r} goes into something that is not a section", where="--set")


def _step(here: Any, part: str, path: str) -> Any:
    if not isinstance(here, dict):
        raise UserError(f"{path!r} goes into something that is not a section", where="--set")
    if not isinstance(here.get(part), dict | list):
        here[part] = {}
    return here[part]


def _explain(
    error: ValidationError, name: str, lines: dict[yaml12.Path, int], document: dict[str, Any]
) -> Iterable[UserError]:
    seen: set[tuple[str, str]] = set()
    located = [(_document_path(item["loc"], document), item) for item in error.errors()]
    for path, item in sorted(located, key=lambda pair: _line(pair[0], lines)):
        where = f"{name}:{_line(path, lines)}: {yaml12.dotted(path)}" if path else name
        what, fix = _words(item, path, document)
        if (where, what) not in seen:
            seen.add((where, what))
            yield UserError(what, where=where, fix=fix)


def _document_path(location: tuple[str | int, ...], document: Any) -> yaml12.Path:
    """Pydantic's location without the names of union branches, which are not in the document."""
    path: list[str | int] = []
    here = document
    for position, part in enumerate(location):
        last = position == len(location) - 1
        inside = (isinstance(here, dict) and part in here) or (
            isinstance(here, list | tuple) and isinstance(part, int) and part < len(here)
        )
        if inside:
            path.append(part)
            here = here[part]
        elif last and not isinstance(part, int) and isinstance(here, dict) and part not in _BRANCHES:
            path.append(part)
    return tuple(path)


_BRANCHES = {
    *("FromTeacher", "FromModel", "Scratch", "name"),
    *("LogitsSignal", "TextSignal", "LabelsSignal", "GoldSignal", "logits", "text", "labels", "gold"),
    *("self-instruct", "evolve", "reverse"),
    *("exact", "numeric", "python", "json-schema", "regex", "majority", "likelihood", "judge"),
}


def _line(path: yaml12.Path, lines: dict[yaml12.Path, int]) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _words(item: Any, path: yaml12.Path, document: Any) -> tuple[str, str]:
    kind, context = item["type"], item.get("ctx", {})
    shown = repr(item["input"])
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    if kind == "extra_forbidden":
        known = _known_keys(path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
        fix = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"unknown key {path[-1]!r}", fix
    if kind == "missing":
        return "this key is required", "see `distill2edge recipe new` for a complete example"
    if kind == "value_error":
        return str(context["error"]), ""
    if kind == "union_tag_invalid":
        return f"{context['discriminator']} is {context['tag']!r}", f"one of {context['expected_tags']}"
    if kind == "union_tag_not_found":
        kinds = "logits, text, labels or gold"
        kinds = kinds if path[-1:] == ("signal",) else "the field's other values are in the reference"
        return "which kind is missing", f"add kind: ({kinds})"
    if kind == "literal_error":
        near = difflib.get_close_matches(str(item["input"]), _quoted(context["expected"]), n=1, cutoff=0.6)
        return f"{shown} is not one of {context['expected']}", f"did you mean {near[0]}?" if near else ""
    return f"{item['msg'].lower()}, got {shown}", ""


def _quoted(expected: str) -> list[str]:
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]


def _known_keys(path: yaml12.Path) -> list[str]:
    """Keys of the section at `path`; of all its branches, where the section is a union."""
    models: list[type[BaseModel]] = [Recipe]
    for part in (part for part in path if not isinstance(part, int)):
        fields = [model.model_fields.get(str(part)) for model in models]
        models = [found for field in fields if field for found in _sections(field.annotation)]
    return sorted({field.alias or name for model in models for name, field in model.model_fields.items()})


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _sections(part)]


def _nearest_recipe(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("recipes")
    names = [str(found) for found in sorted(folder.rglob("*.yaml"))][:50]
    near = difflib.get_close_matches(str(path), names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "write one with `distill2edge recipe new`"
