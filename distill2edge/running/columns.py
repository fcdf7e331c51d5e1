"""Which column of the user's file is the prompt, which the response or label, and so which task it is."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.recipe.choices import same
from distill2edge.recipe.new import Fitted, Task
from distill2edge.util.nearest import meant

MOST_LABELS = 200
_PROMPTS = ("prompt", "question", "instruction", "input", "query", "user", "source", "text", "article", "document")
_ASKS = ("prompt", "question", "instruction", "query")  # that wants an answer where there is none
_RESPONSES = ("response", "answer", "output", "completion", "assistant", "target", "reply", "summary", "translation")
_LABELS = ("label", "class", "category", "intent", "topic", "team", "sentiment", "tag", "target", "type", "queue")
WHERE = "--data"
_SORTING, _CONTINUING = ("classification",), ("causal-lm",)


@dataclass(frozen=True)
class Asked:
    """What the command line says; null is found out."""

    name: str = "my-student"
    task: Task | None = None
    data: Path | None = None
    text: str | None = None
    label: str | None = None
    teacher: str | None = None
    fitted: Fitted | None = None

    @property
    def may_write(self) -> bool:
        """Whether responses can be open texts."""
        return self.task not in _SORTING

    @property
    def may_sort(self) -> bool:
        """Whether responses can be labels."""
        return self.task is None or self.task in _SORTING

    @property
    def may_continue(self) -> bool:
        """Whether it is for texts alone that the student goes on with."""
        return self.task in _CONTINUING


def roles_of(asked: Asked, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> tuple[Task, str | None, str]:
    """The task, and the columns of its prompts and responses.

    No prompt: texts to go on with. The same column for both: no row has a response.
    """
    for name in (asked.text, asked.label):
        if name is not None and name not in columns:
            fix = f"{meant(name, columns)}its columns are {', '.join(columns)}"
            raise UserError(f"no column {name!r} in {asked.data}", where=WHERE, fix=fix)
    if asked.text is not None and asked.text == asked.label:
        raise UserError(f"{asked.text!r} is both text and label", where=WHERE, fix="name two columns")
    texts = [name for name in columns if _is_text(rows, name)]
    response = asked.label
    if response is None:
        response = _named(_RESPONSES, texts) if asked.may_write else None
        labels = [name for name in columns if name != asked.text and is_label(rows, name)]
        if response is None or (asked.task is None and is_label(rows, response)):
            if asked.may_sort and labels:
                response = _named(_LABELS, labels) or (labels[0] if len(labels) == 1 else None)
            if response is None and len(labels) > 1 and not asked.may_continue:
                raise UserError(
                    f"several columns could be the label: {', '.join(labels)}",
                    where=WHERE,
                    fix="name one: --label COLUMN",
                )
    rest = [name for name in texts if name != response]
    prompt = asked.text or _named(_PROMPTS, rest) or max(rest, key=lambda name: length(rows, name), default=None)
    task = asked.task or _task(rows, prompt, response, columns)
    if response is None and task == "causal-lm" and prompt is not None:
        return task, None, prompt
    if prompt is not None and (task == "embedding" or (response is None and task == "chat" and len(columns) == 1)):
        return task, prompt, prompt
    if response is None or prompt is None:
        need = "a text and its label" if task == "classification" else "a prompt and its response"
        raise UserError(
            f"{asked.data} has the columns {', '.join(columns)}; it is not clear which are {need}",
            where=WHERE,
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
        text = max(texts, key=lambda name: length(rows, name))
        other = next(name for name in columns if name != text)
        return f"name them, as in --text {shlex.quote(text)} --label {shlex.quote(other)}"
    return "name them: --text COLUMN --label COLUMN (the label is what the model is to answer)"


def _task(rows: Sequence[Mapping[str, Any]], prompt: str | None, response: str | None, columns: Sequence[str]) -> Task:
    if response is None:
        return "chat" if len(columns) == 1 and columns[0].lower() in _ASKS else "causal-lm"
    return "classification" if is_label(rows, response) else "chat"


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


def is_label(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a column holds few, short values that come again and again."""
    if any(isinstance(row.get(name), list | dict | float) for row in rows[:1000]):
        return False
    counts = Counter(same(value) for value in _values(rows, name))
    total = sum(counts.values())
    short = all(len(value) <= 60 for value in counts)
    return short and 2 <= len(counts) <= min(MOST_LABELS, max(total // 5, 2)) and total >= 3 * len(counts)


def length(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    lengths = [len(value) for value in islice(_values(rows, name), 1000)]
    return sum(lengths) / max(len(lengths), 1)
