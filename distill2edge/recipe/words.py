"""What pydantic finds wrong in a recipe, in words: what, and what to write in its place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from distill2edge.errors import Problem
from distill2edge.recipe import yaml12
from distill2edge.recipe.ranges import bounds, reason
from distill2edge.recipe.schema import Recipe
from distill2edge.recipe.section import Section
from distill2edge.recipe.signals import SIGNALS
from distill2edge.recipe.verifiers import BUILT_IN, KINDS, OWN
from distill2edge.util.nearest import nearest


def explain(error: ValidationError, document: dict[str, Any], written: dict[yaml12.Path, str]) -> Iterator[Problem]:
    """One problem for each wrong key: of a union's branches each has something to say, the first is enough."""
    seen: set[yaml12.Path] = set()
    located = [(document_path(item["loc"], document), item) for item in error.errors()]
    misspelt = {
        (*path[:-1], near) for path, item in located if item["type"] == "extra_forbidden" and (near := _near_key(path))
    }
    inside = {path[:length] for path, _ in located for length in range(len(path))}
    for path, item in located:
        if item["type"] in ("literal_error", "too_short") and path in inside:
            continue  # its entries say what is wrong: of a list where a word may stand too, or short of wrong ones
        if item["type"] == "string_type" and path in written:
            path = section_key(path)  # of a list, all entries at once
            if path not in seen:
                seen.add(path)
                yield Problem(path, *_unquoted(path, document, written))
            continue
        if path in seen or (item["type"] == "missing" and path in misspelt):
            continue  # said already; where a key is misspelt, the unknown one beside it is meant
        seen.add(path)
        yield Problem(path, *_words(item, path))


def document_path(location: tuple[str | int, ...], document: Any) -> yaml12.Path:
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
    *(name for kind, section in SIGNALS.items() for name in (kind, section.__name__)),
    *("self-instruct", "evolve", "reverse"),
    *(BUILT_IN, OWN, *KINDS),
}


def section_key(path: yaml12.Path) -> yaml12.Path:
    """The path without the places in lists at its end: an entry is taken out with its list."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return path


def _words(item: Any, path: yaml12.Path) -> tuple[str, str]:
    kind, context = item["type"], item.get("ctx", {})
    shown, field = shortened(item["input"]), _field(path, item["loc"])
    if kind == "extra_forbidden":
        near = _near_key(path)
        known = _known_keys(path[:-1])
        if near == path[-1]:  # a key of another form of this section, such as `from` beside `model`
            return f"{shortened(near)} does not go with the other keys here", "take it out, or them"
        fix = f"did you mean {near}?" if near else f"known here: {', '.join(known)}" if known else "take it out"
        return f"unknown key {shortened(path[-1])}", "; ".join([fix, *(m.hint for m in _models(path[:-1]) if m.hint)])
    if kind == "missing":
        return "this key is required", "see `distill2edge recipe new` for a complete example"
    if kind == "value_error":
        return str(context["error"]), _range(field)
    if kind == "union_tag_invalid":
        expected = _quoted(context["expected_tags"])
        near_tag = nearest(str(context["tag"]), expected)
        hint = f"did you mean {near_tag}? " if near_tag else ""
        fix = "; ".join([f"{hint}one of {', '.join(expected)}", *(model.hint for model in _models(path) if model.hint)])
        return f"{context['discriminator']} is {shortened(context['tag'])}", fix
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
    if kind == "less_than_equal" and context.get("le") == 1 and (field is None or not reason(field)):
        return f"{shown} is more than 1", "it is a share: write 0.95 for 95%"
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"{item['msg'].lower()}, got {shown}", _range(field)
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"a section is wanted, got {shown}", _as_section(path, item["input"])
    return _of_a_kind(kind, item["input"], context, field) or (f"{item['msg'].lower()}, got {shown}", _about(field))


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


def shortened(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _near_key(path: yaml12.Path) -> str | None:
    return nearest(str(path[-1]), _known_keys(path[:-1]))


def _quoted(expected: str) -> list[str]:
    return [part.strip(" '") for part in expected.replace(" or ", ",").split(",")]


def _known_keys(path: yaml12.Path) -> list[str]:
    """Keys of the section at `path`; of all its branches, where the section is a union."""
    return sorted({key for model in _models(path) for key in model.known_keys()})


def _models(path: yaml12.Path) -> list[type[Section]]:
    models: list[type[Section]] = [Recipe]
    for part in (part for part in path if not isinstance(part, int)):
        fields = [model.model_fields.get(str(part)) for model in models]
        models = [found for field in fields if field for found in sections(field.annotation)]
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


def sections(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in sections(part)]


def _of_a_kind(kind: str, value: Any, context: Any, field: FieldInfo | None) -> tuple[str, str] | None:
    """For numbers, lists and truth values: what is wanted, and the value written so."""
    shown = shortened(value)
    if kind in ("tuple_type", "list_type"):
        texts = value.values() if isinstance(value, dict) else value.split(",") if isinstance(value, str) else [value]
        listed = ", ".join(str(text).strip() for text in texts)
        return f"a list is wanted, got {shown}", f"write [{listed}]"
    if kind == "too_short":
        least = context.get("min_length", 1)
        return f"a list of at least {least} is wanted, got {shown}", "name more, or take the key out for its default"
    if kind == "bool_parsing":
        return f"true or false is wanted, got {shown}", "write true or false"
    if kind in ("int_parsing", "int_from_float", "float_parsing"):
        whole = kind != "float_parsing"
        fix = _as_number(value, whole) or _about(field)
        return f"a {'whole ' if whole else ''}number is wanted, got {shown}", fix
    return None


def _as_number(value: Any, whole: bool) -> str:
    """The number that is meant, as it is written; empty where that cannot be seen."""
    if isinstance(value, float):
        low = int(value)
        return (
            f"write {low} or {low + 1}"
            if 1 <= value < 2**53
            else "rows, layers and steps are counted: write how many, not a share"
        )
    found = re.fullmatch(r"\s*([\d.,_ ]+)\s*([kKmM%]?)\s*", str(value)[:40])
    digits = re.sub(r"[,_ ](?=\d{3})", "", found[1]).strip() if found else ""
    try:
        number = float(digits) * {"": 1, "%": 0.01, "k": 1000, "m": 1_000_000}[found[2].lower() if found else ""]
    except ValueError:
        return ""
    if found is not None and found[2] == "%" and whole:
        return "rows, layers and steps are counted: write how many, not a share"
    return f"write {number:.0f}" if whole or number == int(number) else f"write {number:g}"


def _about(field: FieldInfo | None) -> str:
    """What a key takes, for want of a better fix: its range or what it says of itself, and its default."""
    if field is None:
        return ""
    said = _range(field) or field.description or ""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return said + (f"; the default is {default}" if isinstance(default, int | float) and said else "")


# The key that a section's name alone stands for.
_MAIN = {"teacher": "model", "data": "source", "signal": "kind", "init": "model", "lora": "rank", "fit": "epochs"}


def _as_section(path: yaml12.Path, value: Any) -> str:
    """How a value is written where a section is wanted."""
    known, key = _known_keys(path), str(path[-1]) if path else ""
    if isinstance(value, bool):
        return f"write {key}: {{}} for its defaults" if value else f"write {key}: null, or take it out"
    if isinstance(value, str):
        text = value if re.fullmatch(r"[\w./:-]+", value) else json.dumps(value, ensure_ascii=False)
        if value in known:
            return f"write {key}: {{{value}: 1}}"
        if path == ("student",):
            return f"write student: {{init: {{model: {text}}}}}"
        if _MAIN.get(key) in known and (key != "signal" or value in SIGNALS):
            return f"write {key}: {{{_MAIN[key]}: {text}}}"
        if known and len(known) <= 3:
            return "write " + " or ".join(f"{{{name}: {text}}}" for name in known)
    return f"its keys are {', '.join(known)}" if known else ""
