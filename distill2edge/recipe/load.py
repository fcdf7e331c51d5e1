"""YAML -> Recipe, with every error at once, each with its line and the fix."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from distill2edge.errors import RecipeErrors, UserError
from distill2edge.file_kinds import ROWS_ARE, holds_rows, not_rows
from distill2edge.nearest import nearest
from distill2edge.recipe import yaml12
from distill2edge.recipe.coherence import unknown_schemes
from distill2edge.recipe.paths import FOLDER
from distill2edge.recipe.ranges import bounds, reason
from distill2edge.recipe.schema import Recipe
from distill2edge.recipe.section import COLLECT, Problem, problems_of


@dataclass(frozen=True)
class Read:
    """A recipe as it stands in its file: built, but perhaps not coherent.

    Attributes:
        name: how errors call the file.
        lines: 1-based, of every path in it.
        overridden: paths that `--set` gave.
        problems: keys that are unknown, missing or not what they can be, and keys that contradict each other.
        wrong: paths of the former. The recipe then has a stand-in there, and is good for nothing but further checks.
    """

    recipe: Recipe | None
    name: str
    lines: dict[yaml12.Path, int]
    overridden: frozenset[yaml12.Path]
    problems: tuple[Problem, ...]
    wrong: frozenset[yaml12.Path] = frozenset()

    def errors(self, more: Iterable[Problem] = ()) -> list[UserError]:
        """Its problems, and further ones that do not follow from those, each once, in the order of their lines."""
        problems = [*self.problems, *(problem for problem in more if not self.touches(problem.path))]
        found: dict[tuple[str, str], UserError] = {}
        for problem in sorted(problems, key=lambda problem: _line(problem.path, self.lines)):
            where = _where(problem.path, self.name, self.lines, self.overridden)
            found.setdefault((where, problem.what), UserError(problem.what, where=where, fix=problem.fix))
        return list(found.values())

    def touches(self, path: yaml12.Path) -> bool:
        """Whether a key at, above or below the path is wrong already."""
        return any(path[: len(wrong)] == wrong or wrong[: len(path)] == path for wrong in self.wrong)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe. Relative paths in it start at its folder, or at the one that it names.

    Args:
        path: the YAML file.
        overrides: `a.b=VALUE` strings, applied before validation.

    Raises:
        UserError: no such file, or not YAML.
        RecipeErrors: all mistakes of the recipe.
    """
    return _coherent(read_recipe(path, overrides))


def parse_recipe(text: str, name: str, overrides: Sequence[str] = ()) -> Recipe:
    """`load_recipe` on a text; `name` is how errors call it. Relative paths in it start at the current directory."""
    return _coherent(_read(text, name, overrides, None))


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Read:
    """As `load_recipe`, with all mistakes but those of YAML left to the caller (`Read.errors`), who may find more.

    Raises:
        UserError: no such file, or not YAML.
    """
    if not path.exists():
        raise UserError("no such recipe", where=str(path), fix=_nearest_recipe(path))
    _check_kind(path)
    return _read(yaml12.read_text(path), str(path), overrides, path.parent)


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


def _read(text: str, name: str, overrides: Sequence[str], folder: Path | None) -> Read:
    document, lines, written = yaml12.parse_document(text, name)
    overridden = frozenset(_override(document, override, written) for override in overrides)
    if isinstance(asked := document.get("folder"), str):
        folder = (folder or Path()) / asked
    context = {COLLECT: True, FOLDER: folder}
    empty = [Problem(path, _EMPTY, _EMPTY_FIX) for path, text in written.items() if not text]
    try:
        recipe = Recipe.model_validate(document, context=context)
    except ValidationError as error:
        said = {problem.path for problem in empty}
        problems = [*empty, *(each for each in _explain(error, document, written) if each.path not in said)]
        wrong = frozenset(problem.path for problem in problems)
        read = Read(_repaired(document, error, context), name, lines, overridden, tuple(problems), wrong)
        if read.recipe is None:
            return read
        # What single sections say stays true; what they ask of each other may not, with a stand-in among them.
        more = [*problems_of(read.recipe, root=False), *unknown_schemes(read.recipe)]
        kept = tuple(problem for problem in more if not read.touches(problem.path))
        return replace(read, problems=(*read.problems, *kept))
    return Read(recipe, name, lines, overridden, (*empty, *problems_of(recipe)), frozenset(each.path for each in empty))


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
            path = _section_key(_document_path(item["loc"], whole))
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


def _section_key(path: yaml12.Path) -> yaml12.Path:
    """The path without the places in lists at its end: an entry is taken out with its list."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return path


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default visible; reads back to the same recipe."""
    import yaml

    content = recipe.model_dump(mode="json", by_alias=True)
    if recipe.folder is not None:
        content = {"name": content.pop("name"), "folder": recipe.folder, **content}
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100))


def recipe_schema() -> str:
    """The JSON Schema of a recipe, for editors."""
    return json.dumps(Recipe.model_json_schema(by_alias=True), indent=2)


def _override(document: dict[str, Any], override: str, scalars: dict[yaml12.Path, str]) -> yaml12.Path:
    """Put one `a.b=VALUE` into the document, and its numbers as they are written into `scalars`; returns its path."""
    written, equals, value = override.partition("=")
    written = written.strip()
    parts = written.replace("[", ".").replace("]", "").split(".")  # export[0] as errors write it, or export.0
    if not equals or not all(parts) or len(parts) > 16:
        raise UserError(f"cannot read {_shortened(override)}", where="--set", fix="write --set student.lora.rank=32")
    here: Any = document
    path: list[str | int] = []
    for depth, part in enumerate(parts):
        key: str | int = part
        if isinstance(here, list):
            key = int(part) if part.isascii() and part.isdigit() and len(part) < 9 else -1
            if not 0 <= key < len(here):
                raise UserError(
                    f"{yaml12.dotted(tuple(path))} has {len(here)} entries, and {part!r} is none of them",
                    where=f"--set {written}",
                    fix="count from 0, or give the whole list: --set 'export=[gguf:Q8_0]'",
                )
        elif not isinstance(here, dict):
            above, name = ".".join(parts[:depth]), yaml12.dotted(tuple(path))
            fix = f"set {above} itself to a section: --set '{above}={{{part}: ...}}'"
            raise UserError(f"{name} is {_shortened(here)}, not a section", where=f"--set {written}", fix=fix)
        path.append(key)
        if depth == len(parts) - 1:
            found = yaml12.parse_value(value)
            here[key] = found.value
            scalars |= {(*path, *inside): text for inside, text in found.written.items()}
        else:
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
            here = here[key]
    return tuple(path)


def _where(path: yaml12.Path, name: str, lines: dict[yaml12.Path, int], overridden: frozenset[yaml12.Path]) -> str:
    """The place of a path: its line, or the `--set` that gave it."""
    inside = f": {yaml12.dotted(path)}" if path else ""
    for length in range(len(path), 0, -1):
        if path[:length] in overridden:
            return f"--set{inside}"
    return f"{name}:{_line(path, lines)}{inside}" if path else name


def _explain(error: ValidationError, document: dict[str, Any], written: dict[yaml12.Path, str]) -> Iterator[Problem]:
    """One problem for each wrong key: of a union's branches each has something to say, the first is enough."""
    seen: set[yaml12.Path] = set()
    located = [(_document_path(item["loc"], document), item) for item in error.errors()]
    misspelt = {
        (*path[:-1], near) for path, item in located if item["type"] == "extra_forbidden" and (near := _near_key(path))
    }
    inside = {path[:length] for path, _ in located for length in range(len(path))}
    for path, item in located:
        if item["type"] == "literal_error" and path in inside:
            continue  # a list where a word may stand too: its entries say what is wrong
        if item["type"] == "string_type" and path in written:
            path = _section_key(path)  # of a list, all entries at once
            if path not in seen:
                seen.add(path)
                yield Problem(path, *_unquoted(path, document, written))
            continue
        if path in seen or (item["type"] == "missing" and path in misspelt):
            continue  # said already; where a key is misspelt, the unknown one beside it is meant
        seen.add(path)
        yield Problem(path, *_words(item, path))


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


def _words(item: Any, path: yaml12.Path) -> tuple[str, str]:
    kind, context = item["type"], item.get("ctx", {})
    shown = _shortened(item["input"])
    if kind == "extra_forbidden":
        near = _near_key(path)
        known = _known_keys(path[:-1])
        if near == path[-1]:  # a key of another form of this section, such as `from` beside `model`
            return f"{_shortened(near)} does not go with the other keys here", "take it out, or them"
        fix = f"did you mean {near}?" if near else f"known here: {', '.join(known)}" if known else "take it out"
        return f"unknown key {_shortened(path[-1])}", fix
    if kind == "missing":
        return "this key is required", "see `distill2edge recipe new` for a complete example"
    if kind == "value_error":
        return str(context["error"]), _range(_field(path, item["loc"]))
    if kind == "union_tag_invalid":
        expected = _quoted(context["expected_tags"])
        near_tag = nearest(str(context["tag"]), expected)
        hint = f"did you mean {near_tag}? " if near_tag else ""
        return f"{context['discriminator']} is {_shortened(context['tag'])}", f"{hint}one of {', '.join(expected)}"
    if kind == "union_tag_not_found":
        kinds = "logits, text, labels or gold"
        kinds = kinds if path[-1:] == ("signal",) else "the field's other values are in the reference"
        return "which kind is missing", f"add kind: ({kinds})"
    if kind == "literal_error":
        near_value = nearest(str(item["input"]), _quoted(context["expected"]))
        what = f"{shown} is not one of {context['expected']}"
        return what, f"did you mean {near_value}?" if near_value else "write one of them"
    if kind == "string_pattern_mismatch" and path == ("name",):
        slug = re.sub(r"[^a-z0-9._-]+", "-", str(item["input"]).lower()).strip("._-")[:64]
        what = f"{shown} cannot name a run: small letters, digits, and . _ - after the first"
        return what, f"write name: {slug or 'my-student'}"
    field = _field(path, item["loc"])
    if kind == "less_than_equal" and context.get("le") == 1 and (field is None or not reason(field)):
        return f"{shown} is more than 1", "it is a share: write 0.95 for 95%"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{item['msg'].lower()}, got {shown}", _range(field)
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        known = _known_keys(path)
        return f"a section is wanted, got {shown}", f"its keys are {', '.join(known)}" if known else ""
    return f"{item['msg'].lower()}, got {shown}", ""


def _unquoted(path: yaml12.Path, document: Any, written: dict[yaml12.Path, str]) -> tuple[str, str]:
    """What to write where YAML reads a text, or texts in a list, as something else."""
    value = document
    for part in path:
        value = value[part]
    if not isinstance(value, list):
        text = written[path]
        if value is None:
            return f"{text} is nothing, and a text is wanted", f'write one; if that is the text, in quotes: "{text}"'
        kind = "a truth value" if isinstance(value, bool) else "a number"
        return f"a text is wanted, and YAML reads {text} as {kind}", f'write it in quotes: "{text}"'
    choices = path[-1] == "choices"
    texts = [
        str(entry) if isinstance(entry, bool) and choices else written.get((*path, index), str(entry))
        for index, entry in enumerate(value)
    ]
    listed = ", ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    if not choices:
        return "its entries are texts, in quotes where YAML reads something else", f"write [{listed}]"
    truth = " (or as the file has them, where they are texts there)" if any(isinstance(e, bool) for e in value) else ""
    return "a choice is the text that data.response prints, in quotes", f"write [{listed}]{truth}"


def _shortened(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _near_key(path: yaml12.Path) -> str | None:
    return nearest(str(path[-1]), _known_keys(path[:-1]))


def _quoted(expected: str) -> list[str]:
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]


def _known_keys(path: yaml12.Path) -> list[str]:
    """Keys of the section at `path`; of all its branches, where the section is a union."""
    return sorted({field.alias or name for model in _models(path) for name, field in model.model_fields.items()})


def _models(path: yaml12.Path) -> list[type[BaseModel]]:
    models: list[type[BaseModel]] = [Recipe]
    for part in (part for part in path if not isinstance(part, int)):
        fields = [model.model_fields.get(str(part)) for model in models]
        models = [found for field in fields if field for found in _sections(field.annotation)]
    return models


def _field(path: yaml12.Path, location: tuple[str | int, ...]) -> FieldInfo | None:
    """The field at a path; `location` is pydantic's, which names the branch of a union."""
    key = str(path[-1]) if path else ""
    found = [model for model in _models(path[:-1]) if key in model.model_fields]
    named = [m for m in found if "kind" in m.model_fields and m.model_fields["kind"].default in location]
    return next((model.model_fields[key] for model in (*named, *found)), None)


def _range(field: FieldInfo | None) -> str:
    """The range of a number, and the reason for it."""
    if field is None or not (span := bounds(field)):
        return ""
    because = reason(field)
    return f"give {span}" + (f" ({because})" if because else "")


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _sections(part)]


def _nearest_recipe(path: Path) -> str:
    """Of its folder, or of recipes/; folders below are not walked, they may hold anything."""
    folder = path.parent if path.parent.is_dir() else Path("recipes")
    names = [str(found) for found in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml")))[:200]]
    near = nearest(str(path), names, cutoff=0.5)
    return f"did you mean {near}?" if near else "write one with `distill2edge recipe new`"
