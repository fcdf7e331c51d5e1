"""A recipe filled in from the user's own file: columns, labels, splits and lengths are read, not asked for."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from distill2edge.data.conversation_forms import found_in
from distill2edge.data.readers import reader_of, unknown_kind
from distill2edge.data.tables import header_fix, headless
from distill2edge.data.values import Unreadable
from distill2edge.errors import UserError
from distill2edge.intake.glance import Glance, glance
from distill2edge.models.kinds import DECODER
from distill2edge.recipe.new import TASKS, New, Task, check_name, new_recipe, teacher_of
from distill2edge.running.columns import MOST_LABELS, WHERE, Asked, roles_of
from distill2edge.running.starter_data import MOST_ROWS, section_of, section_of_conversations
from distill2edge.util.file_kinds import ROWS_ARE, endings, holds_rows
from distill2edge.util.nearest import nearest


def new(
    data: Path | str | None = None,
    *,
    name: str = "my-student",
    task: Task | None = None,
    text: str | None = None,
    label: str | None = None,
    teacher: str | None = None,
) -> str:
    """The text of a commented recipe to start from; with `data` one that runs as it is on the user's own file.

        Path("tickets.yaml").write_text(d2e.new("tickets.csv", name="tickets"))

    Args:
        data: a file of rows. Its columns, labels and lengths are read, and what they leave open is asked for.
        task: by default what the columns say.
        text: the column of texts, questions or instructions.
        label: the column of labels or answers.
        teacher: hub id, local directory, file.gguf or bundled:NAME.

    Raises:
        UserError: as `starter`.
    """
    return starter(Asked(name, task, None if data is None else Path(data), text, label, teacher))


def starter(asked: Asked) -> str:
    """The text of a recipe that runs as it is on the user's file, or on an example.

    Raises:
        UserError: a file that cannot be read, is too small, or whose columns leave a choice.
    """
    task = asked.task
    check_name(asked.name)
    if asked.data is None:
        if asked.text or asked.label:
            raise UserError("--text and --label name columns of a file", where=WHERE, fix="give it with --data FILE")
        asks = task == "classification" and asked.teacher is not None and _writes(glance(asked.teacher))
        return new_recipe(New(asked.name, task or "causal-lm", teacher=asked.teacher, asks=asks, fitted=asked.fitted))
    rows = _read(asked.data)
    whole = _whole_numbers(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if (recipe := _of_conversations(asked, rows)) is not None:
        return recipe
    task, prompt, response = roles_of(asked, rows, columns)
    model = glance(asked.teacher or teacher_of(task))
    asks = task == "classification" and _writes(model)
    data = section_of(asked.data, task, rows, prompt, response, None if asks else model, whole, asks=asks)
    layers = model.facts.layers if model is not None else None
    plain: Literal["plain", "text"] = "plain" if prompt else "text"
    return new_recipe(New(asked.name, task, data, asked.teacher, layers, asks, plain=plain, fitted=asked.fitted))


def _writes(model: Glance | None) -> bool:
    """Whether a teacher is a language model, as far as it is here to be looked at."""
    return model is not None and model.facts.kind is DECODER


# --- rows -----------------------------------------------------------------------


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise _no_file(path)
    reader = reader_of(path)
    if reader is None:
        raise unknown_kind(path)
    rows = [{name: _readable(value) for name, value in row.items()} for row in islice(reader(path), MOST_ROWS)]
    if not rows:
        raise UserError("the file has no rows", where=str(path), fix="give a file with rows")
    if endings(path)[0] in (".csv", ".tsv") and (name := headless(columns := list(rows[0]), rows)) is not None:
        what = f"its first line names the columns, and {name[:60]!r} looks like a value"
        raise UserError(what, where=str(path), fix=header_fix(path, columns))
    return rows


def _readable(value: Any) -> Any:
    """A cell that Python has no form of counts as one that is not there."""
    return None if isinstance(value, Unreadable) else value


def _whole_numbers(rows: list[dict[str, Any]]) -> frozenset[str]:
    """Columns of labels 0.0, 1.0 as tables keep whole numbers where one is missing; in the rows they become 0, 1."""
    found = set()
    for name in rows[0]:
        values = [value for row in rows if (value := row.get(name)) is not None]
        if {type(value) for value in values} not in ({float}, {float, int}):
            continue
        numbers = {value for value in values if value == value}
        if not 2 <= len(numbers) <= MOST_LABELS or not all(float(value).is_integer() for value in numbers):
            continue
        found.add(name)
        for row in rows:
            value = row.get(name)
            row[name] = None if value is None or value != value else int(value)
    return frozenset(found)


def _no_file(path: Path) -> UserError:
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        return UserError(
            "this is an address, and a file is wanted", where=str(path), fix="download it, and name the file"
        )
    folder = path if path.is_dir() else path.parent
    with suppress(OSError):
        names = sorted(each.name for each in islice(folder.iterdir(), 2000) if each.is_file() and holds_rows(each))
        if path.is_dir():
            others = f" (or {', '.join(names[1:6])})" if len(names) > 1 else ""
            fix = f"give one of its files: --data {path / names[0]}{others}" if names else f"give a file: {ROWS_ARE}"
            return UserError("this is a folder, and one file is wanted", where=str(path), fix=fix)
        if near := nearest(path.name, names):
            return UserError("there is no such file", where=str(path), fix=f"did you mean {folder / near}?")
    return UserError("there is no such file", where=str(path), fix=f"give a file of rows: {ROWS_ARE}")


def _of_conversations(asked: Asked, rows: list[dict[str, Any]]) -> str | None:
    """A recipe for a file of conversations, which have no columns to choose; None for every other."""
    assert asked.data is not None
    found = found_in(rows[0], "auto")
    if found is None or not found.form.turns or asked.text or asked.label:
        return None
    if asked.task not in (None, "chat"):
        what = f"{', '.join(found.columns)} holds conversations, and they are for --task chat"
        raise UserError(what, where=str(asked.data), fix="leave --task out, or name columns with --text and --label")
    model = glance(asked.teacher or teacher_of("chat"))
    data = section_of_conversations(asked.data, rows, model)
    layers = model.facts.layers if model is not None else None
    return new_recipe(New(asked.name, "chat", data, asked.teacher, layers, fitted=asked.fitted))


__all__ = ["TASKS", "Asked", "starter"]
