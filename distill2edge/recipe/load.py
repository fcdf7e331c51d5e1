"""YAML -> Recipe, with every error at once, each with its line and the fix."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill2edge.errors import Problem, RecipeErrors, UserError
from distill2edge.recipe import yaml12
from distill2edge.recipe.changes import Changes, change
from distill2edge.recipe.coherence import unknown_schemes
from distill2edge.recipe.paths import FOLDER, located
from distill2edge.recipe.schema import Recipe
from distill2edge.recipe.section import COLLECT, problems_of
from distill2edge.recipe.signals import FORM, LogitsSignal
from distill2edge.recipe.words import document_path, explain, section_key
from distill2edge.util.file_kinds import ROWS_ARE, holds_rows, not_rows
from distill2edge.util.nearest import nearest


@dataclass(frozen=True)
class Read:
    """A recipe as it stands in its file: built, but perhaps not coherent.

    Attributes:
        name: how errors call the file.
        lines: 1-based, of every path in it; empty where it comes from no file.
        changed: paths that were changed, and how errors call what changed them.
        problems: keys that are unknown, missing or not what they can be, and keys that contradict each other.
        wrong: paths of the former. The recipe then has a stand-in there, and is good for nothing but further checks.
    """

    recipe: Recipe | None
    name: str
    lines: dict[yaml12.Path, int]
    changed: Mapping[yaml12.Path, str]
    problems: tuple[Problem, ...]
    wrong: frozenset[yaml12.Path] = frozenset()

    def errors(self, more: Iterable[Problem] = ()) -> list[UserError]:
        """Its problems, and further ones that do not follow from those, each once, in the order of their lines."""
        problems = [*self.problems, *(problem for problem in more if not self.touches(problem.path))]
        found: dict[tuple[str, str], UserError] = {}
        for problem in sorted(problems, key=lambda problem: _line(problem.path, self.lines)):
            where = self._where(problem.path)
            found.setdefault((where, problem.what), UserError(problem.what, where=where, fix=problem.fix))
        return list(found.values())

    def touches(self, path: yaml12.Path) -> bool:
        """Whether a key at, above or below the path is wrong already."""
        return any(path[: len(wrong)] == wrong or wrong[: len(path)] == path for wrong in self.wrong)

    def _where(self, path: yaml12.Path) -> str:
        """The place of a path: its line, or what changed it."""
        inside = f": {yaml12.dotted(path)}" if path else ""
        for length in range(len(path), 0, -1):
            if path[:length] in self.changed:
                return f"{self.changed[path[:length]]}{inside}"
        return f"{self.name}:{_line(path, self.lines)}{inside}" if path and self.lines else f"{self.name}{inside}"


def load_recipe(path: Path | str, changes: Changes = ()) -> Recipe:
    """Read a recipe. Relative paths in it start at its folder, or at the one that it names.

    What it names (data, models, prices) is looked at by `check`, `plan` and `run`.

        recipe = d2e.load("tickets.yaml", {"distill.epochs": 2})
        recipe.distill.epochs

    Args:
        path: the YAML file.
        changes: applied before anything is checked.

    Raises:
        UserError: no such file, or not YAML.
        RecipeErrors: all mistakes of the recipe.
    """
    return _coherent(read_recipe(Path(path), changes))


def edit_recipe(recipe: Recipe, changes: Changes) -> Recipe:
    """Another recipe with other values; the given one stays. Paths in it still start where they did.

        smaller = d2e.edit(recipe, {"name": "smaller", "student.init.layers": 8, "export[0]": "gguf:Q4_0"})

    Args:
        changes: values by dotted keys, as errors write them; a section is a dictionary.

    Raises:
        RecipeErrors: all mistakes that the changes make.
    """
    return _coherent(read_edited(recipe, changes))


def parse_recipe(text: str, name: str, changes: Changes = ()) -> Recipe:
    """`load_recipe` on a text; `name` is how errors call it. Relative paths in it start at the current directory."""
    return _coherent(_read(text, name, changes, None))


def read_edited(recipe: Recipe, changes: Changes) -> Read:
    """As `edit_recipe`, with all mistakes left to the caller (`Read.errors`), who may find more."""
    if not changes:
        return Read(recipe, recipe.name, {}, {}, tuple(problems_of(recipe)))
    start = next((path.folder for path in located(recipe)), None)
    whole = recipe.model_copy(update={"folder": None})  # its paths know their folder already
    # What nobody named is decided anew, by what the changes make of the rest.
    unnamed = {"signal": FORM} if isinstance(recipe.signal, LogitsSignal) and recipe.signal.formless else None
    text = dump_recipe(whole, unnamed)
    return replace(_read(text, recipe.name, changes, start), lines={})


def read_recipe(path: Path, changes: Changes = ()) -> Read:
    """As `load_recipe`, with all mistakes but those of YAML left to the caller (`Read.errors`), who may find more.

    Raises:
        UserError: no such file, or not YAML.
    """
    if not path.exists():
        raise UserError("no such recipe", where=str(path), fix=_nearest_recipe(path))
    _check_kind(path)
    return _read(yaml12.read_text(path), str(path), changes, path.parent)


def _check_kind(path: Path) -> None:
    """Refuse rows, and folders, that are given in place of a recipe; JSON may be one."""
    if path.is_dir():
        found = [path / "recipe.yaml"] if (path / "recipe.yaml").is_file() else sorted(path.glob("*.y*ml"))[:1]
        fix = f"name a file: {found[0]}" if found else "name a recipe's file; `distill2edge recipe new` writes one"
        raise UserError("this is a directory, and a recipe is one file", where=str(path), fix=fix)
    rows = path.suffix.lower() not in (".json", ".txt") and holds_rows(path)
    if path.suffix.lower() == ".json" and path.is_file():
        with suppress(OSError), open(path, "rb") as file:  # told when it is read
            rows = file.read(100).lstrip().startswith(b"[")
    if rows:
        fix = f"make one of it: distill2edge recipe new --data {path} > my.yaml"
        raise UserError("these are rows, and a recipe is wanted", where=str(path), fix=fix)
    if path.suffix.lower() not in ("", ".yaml", ".yml", ".json") and not_rows(path)[1] != ROWS_ARE:
        what = f"{not_rows(path)[0]}, and a recipe is YAML"
        raise UserError(what, where=str(path), fix="name a recipe; `distill2edge recipe new` writes one")


def _coherent(read: Read) -> Recipe:
    if errors := read.errors():
        raise RecipeErrors(errors)
    assert read.recipe is not None
    return read.recipe


def _read(text: str, name: str, changes: Changes, folder: Path | None) -> Read:
    document, lines, written = yaml12.parse_document(text, name)
    changed = change(document, changes, written)
    if isinstance(asked := document.get("folder"), str):
        folder = (folder or Path()) / asked
    context = {COLLECT: True, FOLDER: folder}
    empty = [Problem(path, _EMPTY, _EMPTY_FIX) for path, text in written.items() if not text]
    try:
        recipe = Recipe.model_validate(document, context=context)
    except ValidationError as error:
        said = {problem.path for problem in empty}
        problems = [*empty, *(each for each in explain(error, document, written) if each.path not in said)]
        wrong = frozenset(problem.path for problem in problems)
        read = Read(_repaired(document, error, context), name, lines, changed, tuple(problems), wrong)
        if read.recipe is None:
            return read
        # What single sections say stays true; what they ask of each other may not, with a stand-in among them.
        more = [*problems_of(read.recipe, root=False), *unknown_schemes(read.recipe)]
        kept = tuple(problem for problem in more if not read.touches(problem.path))
        return replace(read, problems=(*read.problems, *kept))
    return Read(recipe, name, lines, changed, (*empty, *problems_of(recipe)), frozenset(each.path for each in empty))


# YAML reads it as null, which often has a meaning (`lora:` would train every weight); who means that writes it.
_EMPTY, _EMPTY_FIX = "nothing is written here", "write its value, null where none is meant, or take the key out"

# Keys that have no default: what stands in for them while further mistakes are looked for.
_STAND_INS: dict[yaml12.Path, Any] = {
    ("name",): "x",
    ("teacher",): {},
    ("teacher", "model"): "owner/name",
    ("data",): {},
    ("data", "source"): "owner/name",
    ("student",): {},
    ("student", "init"): {"model": "owner/name"},
    ("student", "init", "layers"): 1,
    ("student", "init", "model"): "owner/name",
}


def _repaired(document: dict[str, Any], error: ValidationError, context: dict[str, Any]) -> Recipe | None:
    """The recipe without its wrong keys, or with stand-ins; None where that makes none."""
    whole = copy.deepcopy(document)
    for _ in range(4):  # what is required is missing once its wrong value is gone
        for item in error.errors():
            path = section_key(document_path(item["loc"], whole))
            if not path:
                return None
            here: Any = whole
            for part in path[:-1]:
                here = here[part] if isinstance(here, list) or (isinstance(here, dict) and part in here) else None  # type: ignore[index]
            if isinstance(here, dict) and path in _STAND_INS:
                here[path[-1]] = copy.deepcopy(_STAND_INS[path])
            elif isinstance(here, dict):
                here.pop(path[-1], None)
        try:
            return Recipe.model_validate(whole, context=context)
        except ValidationError as again:
            error = again
    return None


def dump_recipe(recipe: Recipe, without: dict[str, set[str]] | None = None) -> str:
    """The recipe as YAML with every default visible; reads back to the same recipe.

    Args:
        without: keys of sections that are left out.
    """
    import yaml

    content = recipe.model_dump(mode="json", by_alias=True, exclude=without)
    if recipe.folder is not None:
        content = {"name": content.pop("name"), "folder": recipe.folder, **content}
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100))


def recipe_schema() -> str:
    """The JSON Schema of a recipe, for editors."""
    return json.dumps(Recipe.model_json_schema(by_alias=True), indent=2)


def _line(path: yaml12.Path, lines: dict[yaml12.Path, int]) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


def _nearest_recipe(path: Path) -> str:
    """Of its folder, or of recipes/; folders below are not walked, they may hold anything."""
    folder = path.parent if path.parent.is_dir() else Path("recipes")
    names = [str(found) for found in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))[:200]]
    near = nearest(str(path), names, cutoff=0.5)
    return f"did you mean {near}?" if near else "write one with `distill2edge recipe new`"
