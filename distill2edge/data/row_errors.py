"""What went wrong with a row, for who wrote the template: the field or expression, the reason, and what to write."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from typing import Any

from jinja2 import UndefinedError

from distill2edge.data.values import NAMELESS, UnprintableError, as_text
from distill2edge.errors import UserError
from distill2edge.templating.weights import LimitError
from distill2edge.util.nearest import meant
from distill2edge.util.terminal import one_line


def row_error(
    error: BaseException, where: str, fields: Set[str], row: Mapping[str, Any], number: int, culprit: str = ""
) -> UserError:
    """What an error means for the author of a template.

    Args:
        error: of the render.
        where: the template's key.
        fields: that it reads.
        number: of the row.
        culprit: the expression that failed, as it is spelled, where it is known.
    """
    have = f"its fields are {names(row)}"
    missing = sorted(fields - set(row))
    null = sorted(name for name in fields & set(row) if row[name] is None)
    if missing and isinstance(error, UndefinedError):
        return UserError(
            f"row {number} has no field {', '.join(missing)}; {have}",
            where=where,
            fix=_fix_of_missing(missing[0], where, row),
        )
    if isinstance(error, LimitError):
        what = f"row {number}: the template goes beyond its limits: {error}"
        return UserError(what, where=where, fix=f"correct {where}: it must not make more than the row gives it")
    if isinstance(error, UnprintableError):
        return _unprintable(error, where, fields, row, number, culprit)
    if null:
        what = f"row {number}: field {', '.join(null)} is null; {have}"
        fix = f'leave such rows out with data.filter: "{null[0]} is not none"'
    else:
        at = f" (in {{{{ {culprit} }}}})" if culprit else ""
        what = f"row {number}: {type(error).__name__}: {shown(str(error))}{at}; {have}"
        fix = f"correct {where} (numbers from CSV are text: {{{{ score | float }}}})"
        if isinstance(error, UndefinedError):
            fix = chat_fix(row) or f"correct {where}, or leave such rows out with data.filter"
    return UserError(what, where=where, fix=fix)


def _unprintable(
    error: UnprintableError, where: str, fields: Set[str], row: Mapping[str, Any], number: int, culprit: str
) -> UserError:
    """The error for a value that is not text, with the field or expression that it comes from."""
    what, spelled = str(error), culprit
    if not culprit or what.startswith(("is ", "'", '"')) or culprit == NAMELESS or what.startswith(NAMELESS):
        found = next((name for name in sorted(fields & set(row)) if not _is_text(row[name])), "")
        only = next(iter(fields)) if len(fields) == 1 else "a value"
        spelled = found or culprit.partition(" | ")[0] or only
        what = f"{spelled} {what.removeprefix(NAMELESS).strip()}"
    if what == f"{spelled} is null" and spelled in row:
        what = f"field {spelled} is null"
    chat = "" if what.endswith((" is null", " is NaN")) else chat_fix(row)
    fix = chat or error.fix.replace("{}", spelled).replace(NAMELESS, spelled)
    return UserError(f"row {number}: {shown(what)}; its fields are {names(row)}", where=where, fix=shown(fix))


def _is_text(value: Any) -> bool:
    try:
        as_text(value)
    except UnprintableError:
        return False
    return True


def _fix_of_missing(name: str, where: str, row: Mapping[str, Any]) -> str:
    if chat := chat_fix(row):
        return chat
    if builtin := filter_for(name):
        return builtin
    spelled = [field for field in row if not field.isidentifier() and field.startswith(name)]
    if spelled:
        return f"write {{{{ row[{shown(spelled[0])!r}] }}}}: Jinja reads that name otherwise"
    hint = meant(name, [str(field) for field in row])
    return f'{hint}name one of those in {where}, or leave such rows out with data.filter: "{name} is defined"'


def chat_fix(row: Mapping[str, Any]) -> str:
    """What to write for the first question and answer of a field that holds a conversation; empty where none does."""
    for field, turns in row.items():
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
            continue
        text = next((key for key in ("content", "value") if key in turns[0]), None)
        roles = [str(turn.get("role", turn.get("from", ""))) for turn in turns[:50]]
        asked = next((index for index, role in enumerate(roles) if role in ("user", "human")), None)
        if text is None or asked is None:
            continue
        answered = next((i for i, role in enumerate(roles) if i > asked and role in ("assistant", "gpt", "bot")), None)
        if answered is None:
            return f'leave rows without an answer out with data.filter: "{field} | length > {asked + 1}"'
        parts = "[0].text" if isinstance(turns[asked].get(text), list) else ""
        prompt, response = (f"{{{{ {field}[{index}].{text}{parts} }}}}" for index in (asked, answered))
        return (
            f"leave data.prompt and data.response out, and {field} is read as a conversation; for its first question "
            f'and answer alone write data.prompt: "{prompt}" and data.response: "{response}"'
        )
    return ""


def check_text(text: str, where: str, number: int) -> None:
    """Refuse a text that no file and no tokenizer holds.

    Raises:
        UserError: half of a surrogate pair, or NUL.
    """
    if "\0" in text:
        what, fix = "holds a NUL character", "take it out: {{ name | replace('\\x00', '') }}"
    elif not text.isascii() and (half := next((c for c in text if "\ud800" <= c <= "\udfff"), None)):
        what, fix = f"holds half of a surrogate pair, \\u{ord(half):04x}, not a character", "correct the source"
    else:
        return
    raise UserError(f"row {number}: the text {what}", where=where, fix=fix)


_SPELLINGS = (
    (r"^\s*\{\{-?\s*(.*?)\s*-?\}\}\s*$", r"\1"),
    (r"\s*&&\s*", " and "),
    (r"\s*\|\|\s*", " or "),
    (r"!(?!=)\s*", "not "),
    (r"(?<![=!<>])=(?!=)", "=="),
    (r"\b(?:NULL|null|nil)\b", "none"),
)
_BUILTINS = {"len": "length", "str": "string", "int": "int", "float": "float", "lower": "lower", "upper": "upper",
             "sum": "sum", "min": "min", "max": "max", "sorted": "sort", "list": "list", "abs": "abs",
             "round": "round"}  # fmt: skip


def corrected_expression(source: str, where: str) -> str:
    """What to write for an expression in the spelling of another language; empty where it has none."""
    corrected = source.strip()
    if len(corrected) > 500:
        return ""
    for pattern, written in _SPELLINGS:
        corrected = re.sub(pattern, written, corrected)
    return f'write {where}: "{corrected}"' if corrected != source.strip() else ""


def filter_for(name: str) -> str:
    """How Jinja writes one of Python's functions; empty where it is none of these."""
    return f"Jinja writes {name}(x) as x | {_BUILTINS[name]}" if name in _BUILTINS else ""


def names(row: Mapping[str, Any]) -> str:
    """The fields of a row for an error: the first few."""
    listed = sorted(str(name) for name in row)
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    return shown(", ".join(name[:60] for name in listed[:20]) or "none") + more


def shown(text: str) -> str:
    """A text from a file as an error may print it: one line, no control characters, not long."""
    return one_line(text, 500)
