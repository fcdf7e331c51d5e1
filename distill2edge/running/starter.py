"""A recipe filled in from the user's own file: columns, labels, splits and lengths are read, not asked for."""

from __future__ import annotations

import keyword
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from distill2edge.data.readers import reader_of, unknown_kind
from distill2edge.data.tables import header_fix, headless
from distill2edge.data.values import Unreadable
from distill2edge.errors import UserError
from distill2edge.intake.glance import Glance, glance
from distill2edge.recipe import schema
from distill2edge.recipe.choices import same
from distill2edge.recipe.new import TASKS, Data, New, Task, check_name, new_recipe, teacher_of
from distill2edge.util.file_kinds import ROWS_ARE, endings, holds_rows
from distill2edge.util.nearest import meant, nearest
from distill2edge.util.progress import SilentProgress

_ROWS = 200_000  # that are read at most; of larger files the first ones speak for all
_LEAK_ROWS = 20_000  # up to which the splits are tried out
_LEAST = 40  # usable rows below which nothing can be held out
_MOST_LABELS = 200
_PROMPTS = ("prompt", "question", "instruction", "input", "query", "user", "source", "text", "article", "document")
_RESPONSES = ("response", "answer", "output", "completion", "assistant", "target", "reply", "summary", "translation")
_LABELS = ("label", "class", "category", "intent", "topic", "team", "sentiment", "tag", "target", "type", "queue")
_WHERE = "--data"
_WORDS = ("true", "false", "none", "range", "dict", "lipsum", "cycler", "joiner", "namespace")  # of Jinja


@dataclass(frozen=True)
class Asked:
    """What the command line says; null is found out."""

    name: str = "my-student"
    task: Task | None = None
    data: Path | None = None
    text: str | None = None
    label: str | None = None
    teacher: str | None = None


def starter(asked: Asked) -> str:
    """The text of a recipe that runs as it is on the user's file, or on an example.

    Raises:
        UserError: a file that cannot be read, is too small, or whose columns leave a choice; conversations.
    """
    task = asked.task
    check_name(asked.name)
    if asked.data is None:
        if asked.text or asked.label:
            raise UserError("--text and --label name columns of a file", where=_WHERE, fix="give it with --data FILE")
        return new_recipe(New(asked.name, task or "causal-lm", teacher=asked.teacher))
    rows = _read(asked.data)
    whole = _whole_numbers(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    _no_conversations(rows, columns, asked.data)
    task, prompt, response = _roles(asked, rows, columns)
    model = glance(asked.teacher or teacher_of(task))
    data = _data(asked.data, task, rows, prompt, response, model, whole)
    layers = model.facts.layers if model is not None else None
    new = New(asked.name, task, data, asked.teacher, layers, plain="plain" if prompt else "text")
    if model is not None and model.facts.role == "decoder":  # GGUF has classifiers of encoders alone
        new = replace(new, formats=("onnx:int8",))
    return new_recipe(new)


# --- rows -----------------------------------------------------------------------


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise _no_file(path)
    reader = reader_of(path)
    if reader is None:
        raise unknown_kind(path)
    rows = [{name: _readable(value) for name, value in row.items()} for row in islice(reader(path), _ROWS)]
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
        if not 2 <= len(numbers) <= _MOST_LABELS or not all(float(value).is_integer() for value in numbers):
            continue
        found.add(name)
        for row in rows:
            value = row.get(name)
            row[name] = None if value is None or value != value else int(value)
    return frozenset(found)


def _no_file(path: Path) -> UserError:
    if "://" in str(path) or str(path).startswith(("http:/", "https:/")):
        return UserError("an address, and files are read here", where=str(path), fix="download it, and name the file")
    folder = path if path.is_dir() else path.parent
    with suppress(OSError):
        names = sorted(each.name for each in islice(folder.iterdir(), 2000) if each.is_file() and holds_rows(each))
        if path.is_dir():
            others = f" (or {', '.join(names[1:6])})" if len(names) > 1 else ""
            fix = f"give one of its files: --data {path / names[0]}{others}" if names else f"give a file: {ROWS_ARE}"
            return UserError("this is a folder, and one file is read", where=str(path), fix=fix)
        if near := nearest(path.name, names):
            return UserError("there is no such file", where=str(path), fix=f"did you mean {folder / near}?")
    return UserError("there is no such file", where=str(path), fix=f"give a file of rows: {ROWS_ARE}")


def _no_conversations(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Conversations are not split into prompts and responses yet."""
    for name in columns:
        value = next((row[name] for row in rows if row.get(name)), None)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            raise UserError(
                f"field {name!r} is a list of messages, and conversations are not read yet",
                where=str(path),
                fix="write a file of single exchanges first, such as jq -c "
                f"'{{prompt: .{name}[-2].content, response: .{name}[-1].content}}' {path.name} > pairs.jsonl, "
                "and give that with --data; what comes earlier in a conversation belongs into the prompt",
            )


def _roles(asked: Asked, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> tuple[Task, str | None, str]:
    """The task, and the columns of its prompts and responses (no prompt: texts to go on with)."""
    for name in (asked.text, asked.label):
        if name is not None and name not in columns:
            fix = f"{meant(name, columns)}its columns are {', '.join(columns)}"
            raise UserError(f"no column {name!r} in {asked.data}", where=_WHERE, fix=fix)
    if asked.text is not None and asked.text == asked.label:
        raise UserError(f"{asked.text!r} is both text and label", where=_WHERE, fix="name two columns")
    texts = [name for name in columns if _is_text(rows, name)]
    response = asked.label
    if response is None:
        response = _named(_RESPONSES, texts) if asked.task != "classification" else None
        labels = [name for name in columns if name != asked.text and _is_label(rows, name)]
        if response is None or (asked.task is None and _is_label(rows, response)):
            if asked.task in (None, "classification") and labels:
                response = _named(_LABELS, labels) or (labels[0] if len(labels) == 1 else None)
            if response is None and len(labels) > 1 and asked.task != "causal-lm":
                raise UserError(
                    f"several columns could be the label: {', '.join(labels)}",
                    where=_WHERE,
                    fix="name one: --label COLUMN",
                )
    rest = [name for name in texts if name != response]
    prompt = asked.text or _named(_PROMPTS, rest) or max(rest, key=lambda name: _length(rows, name), default=None)
    task = asked.task or _task(rows, prompt, response)
    if response is None and task == "causal-lm" and prompt is not None:
        return task, None, prompt
    if response is None or prompt is None:
        need = "a text and its label" if task == "classification" else "a prompt and its response"
        raise UserError(
            f"{asked.data} has the columns {', '.join(columns)}; which of them are {need} cannot be seen",
            where=_WHERE,
            fix=_fix_of_columns(rows, columns, texts, asked.data),
        )
    return task, prompt, response


def _fix_of_columns(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], texts: Sequence[str], path: Path | None
) -> str:
    """What to do about columns whose roles cannot be seen."""
    nested = next((name for name in columns if isinstance(rows[0].get(name), dict)), None)
    if nested is not None and path is not None:
        return f"the fields are within {nested}: jq -c .{nested} {path.name} > flat.jsonl, and give that"
    if len(columns) < 2:
        return "give a file with a second column, of labels or answers; for texts alone: --task causal-lm"
    if len(columns) == 2 and texts:
        text = max(texts, key=lambda name: _length(rows, name))
        other = next(name for name in columns if name != text)
        return f"name them, as in --text {shlex.quote(text)} --label {shlex.quote(other)}"
    return "name them: --text COLUMN --label COLUMN (the label is what the model shall answer)"


def _task(rows: Sequence[Mapping[str, Any]], prompt: str | None, response: str | None) -> Task:
    if response is None:
        return "causal-lm"
    return "classification" if _is_label(rows, response) else "chat"


def _named(wanted: Sequence[str], columns: Sequence[str]) -> str | None:
    """The column with one of these names, the first name first."""
    lower = {name.lower(): name for name in columns}
    return next((lower[name] for name in wanted if name in lower), None)


def _values(rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[str]:
    for row in rows:
        value = row.get(name)
        if value is not None and str(value).strip():
            yield str(value)


def _is_text(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(isinstance(row.get(name), str | None) for row in rows[:1000]) and any(_values(rows, name))


def _is_label(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column holds few, short values that come again and again."""
    if any(isinstance(row.get(name), list | dict | float) for row in rows[:1000]):
        return False
    counts = Counter(same(value) for value in _values(rows, name))
    total = sum(counts.values())
    short = all(len(value) <= 60 for value in counts)
    return short and 2 <= len(counts) <= min(_MOST_LABELS, max(total // 5, 2)) and total >= 3 * len(counts)


def _length(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    lengths = [len(value) for value in islice(_values(rows, name), 1000)]
    return sum(lengths) / max(len(lengths), 1)


# --- the section `data` -----------------------------------------------------------


def _data(
    path: Path,
    task: Task,
    rows: list[dict[str, Any]],
    prompt: str | None,
    response: str,
    model: Glance | None,
    whole_numbers: frozenset[str],
) -> Data:
    used = [name for name in (prompt, response) if name is not None]
    whole = [row for row in rows if all(str(row.get(name) or "").strip() or row.get(name) == 0 for name in used)]
    unique = len({tuple(str(row[name]) for name in used) for row in whole})
    if unique < _LEAST:
        what = f"{unique} usable rows ({len(rows)} in all), and at least {_LEAST} are needed"
        raise UserError(what, where=str(path), fix="give more rows: some hundreds for a first try")
    about = []
    if lost := len(rows) - len(whole):
        about.append(f"{lost} of {len(rows)} rows lack {' or '.join(used)}: they are left out")
    labels = Counter(same(str(row[response])) for row in whole)
    choices = tuple(sorted(labels)) if task == "classification" else ()
    if choices:
        about.append("rows of each label: " + ", ".join(f"{name} {labels[name]}" for name in choices[:12]))
        if rare := [name for name in choices if labels[name] < 10]:
            about.append(f"few rows teach little, and say little: {', '.join(rare[:8])}")
    if len(rows) == _ROWS:
        about.append(f"the figures here are of the first {_ROWS:,} rows")
    held = (min(max(unique // 10, 8), 200), min(max(unique // 16, 8), 64), min(max(unique // 5, 16), 500))
    data = Data(
        source=str(path) if path.is_absolute() else path.as_posix(),
        prompt="" if prompt is None else _field(prompt),
        response=_field(response, " | int" if response in whole_numbers else ""),
        choices=choices,
        filter=" and ".join(_given(rows, name, name in whole_numbers) for name in used) if lost else None,
        about=tuple(about),
        splits=held,
        train=unique - sum(held),
        max_length=_max_length(whole, used, task, model),
    )
    return _with_leakage(data, "text" if prompt is None else "plain") if unique <= _LEAK_ROWS else data


def _field(name: str, filters: str = "") -> str:
    """A template that prints one column, whatever it is called."""
    return f"{{{{ {_spelled(name)}{filters} }}}}"


def _spelled(name: str) -> str:
    """A column as an expression names it."""
    taken = name in (*_WORDS, *keyword.kwlist)
    return name if name.isidentifier() and name.isascii() and not taken else f"row[{name!r}]"


def _given(rows: Sequence[Mapping[str, Any]], name: str, number: bool) -> str:
    """An expression that is true where a row has the field, and something in it."""
    there, spelled = all(name in row for row in rows), _spelled(name)
    something = f"{spelled} == {spelled}" if number else f"{spelled} | string | trim"  # NaN is not itself
    filled = f"{spelled} is not none and {something}"
    return filled if there else f"{spelled} is defined and {filled}"


def _max_length(rows: Sequence[Mapping[str, Any]], used: Sequence[str], task: Task, model: Glance | None) -> int:
    """Tokens that nearly every row fits into: counted, where the tokenizer is here and light, else by characters."""
    texts = ["\n".join(str(row[name]) for name in used[: 1 if task == "classification" else None]) for row in rows]
    longest = sorted(texts, key=len)[-max(len(texts) // 50, 20) :]  # the longest fiftieth
    counts = None
    if model is not None and (model.path / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(model.path / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        counts = sorted(len(found.ids) for found in tokenizer.encode_batch(longest))
    else:
        counts = sorted(len(text) * 2 // 5 + 8 for text in longest)  # 2.5 characters a token: more than languages need
    frame = 48 if task == "chat" else 0  # of a chat template, with its own system message
    limit = model.facts.positions if model is not None else None
    # Half a percent of rows beyond it is dropped, so that one long row does not set the length for all.
    most = counts[-1] if len(texts) < 400 else counts[-max(len(texts) // 200, 1)]
    return int(min(-(-(most + frame + 2) // 8) * 8, limit or 2048, 2048))


def _with_leakage(data: Data, template: str) -> Data:
    """The data with what its own splits say: rows that are left, and test rows that are nearly in train."""
    from distill2edge.data.prepare import prepare

    validation, calibration, test = data.splits
    section = schema.Data(
        source=data.source,
        filter=data.filter,
        template=template,  # type: ignore[arg-type]
        prompt=data.prompt or "{{ prompt }}",
        response=data.response,
        choices=data.choices or None,
        splits=schema.Splits(train=None, validation=validation, calibration=calibration, test=test),
        leakage=schema.Leakage(near_duplicate=0.8, max_fraction=1.0, action="drop"),
    )
    with tempfile.TemporaryDirectory() as work:
        facts = prepare(section, 0, Path(work), SilentProgress())
    fraction = float(facts["leakage"]["fraction"])
    data = replace(data, train=int(facts["splits"]["train"]["rows"]))
    if fraction <= schema.Leakage().max_fraction:  # type: ignore[call-arg]
        return data
    return replace(data, leaking=min(1.0, round(fraction + 0.005, 2)))


__all__ = ["TASKS", "Asked", "starter"]
