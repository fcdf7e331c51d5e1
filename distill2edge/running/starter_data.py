"""The section `data` of a recipe, filled in from the rows of the user's own file."""

from __future__ import annotations

import keyword
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill2edge.data.conversation import plain_answer, plain_prompt
from distill2edge.data.rows import Dropped, Rows
from distill2edge.errors import UserError
from distill2edge.intake.glance import Glance
from distill2edge.recipe import schema
from distill2edge.recipe.choices import same
from distill2edge.recipe.new import LONGEST_ANSWER, OWN_ROWS, Data, Task
from distill2edge.util.progress import SilentProgress

MOST_ROWS = 200_000
"""That are read at most: of larger files the first ones speak for all."""
_LEAK_ROWS = 20_000  # up to which the splits are tried out
_LEAST = 40  # usable rows below which nothing can be held out
_WORDS = ("true", "false", "none", "range", "dict", "lipsum", "cycler", "joiner", "namespace")  # of Jinja


def section_of(
    path: Path,
    task: Task,
    rows: list[dict[str, Any]],
    prompt: str | None,
    response: str,
    model: Glance | None,
    whole_numbers: frozenset[str],
    *,
    asks: bool = False,
) -> Data:
    used = [name for name in dict.fromkeys((prompt, response)) if name is not None]
    whole = [row for row in rows if all(str(row.get(name) or "").strip() or row.get(name) == 0 for name in used)]
    unique = len({tuple(str(row[name]) for name in used) for row in whole})
    if unique < _LEAST:
        what = f"{unique} usable rows ({len(rows)} in all), and at least {_LEAST} are needed"
        raise UserError(what, where=str(path), fix="give more rows: some hundreds for a first try")
    about = ["no row has an answer: the teacher writes them"] if prompt == response and task == "chat" else []
    bare = [row for row in rows if asks and prompt and row.get(prompt) and row.get(response) in (None, "")]
    lost = len(rows) - len(whole)
    if lost and lost == len(bare):
        about.append(f"{lost} of {len(rows)} rows have no {response}: the teacher labels them")
        lost = 0
    elif lost:
        about.append(f"{lost} of {len(rows)} rows lack {' or '.join(used)}: they are left out")
    labels = Counter(same(str(row[response])) for row in whole)
    choices = tuple(sorted(labels)) if task == "classification" else ()
    if choices:
        about.append("rows of each label: " + ", ".join(f"{name} {labels[name]}" for name in choices[:12]))
        if rare := [name for name in choices if labels[name] < 10]:
            about.append(f"labels with few rows, hard to learn and to judge: {', '.join(rare[:8])}")
    if len(rows) == MOST_ROWS:
        about.append(f"the figures here are of the first {MOST_ROWS:,} rows")
    held = _held_out(unique)
    data = Data(
        source=str(path) if path.is_absolute() else path.as_posix(),
        prompt="" if prompt is None else _field(prompt),
        response=None if prompt == response else _field(response, " | int" if response in whole_numbers else ""),
        choices=choices,
        filter=" and ".join(_given(rows, name, name in whole_numbers) for name in used) if lost else None,
        unlabelled=OWN_ROWS if bare and not lost else None,
        about=tuple(about),
        splits=held,
        train=unique - sum(held),
        max_length=_max_length(whole, used, task, model),
    )
    return _with_leakage(data, "text" if prompt is None else "plain") if unique <= _LEAK_ROWS else data


def section_of_conversations(path: Path, rows: Sequence[Mapping[str, Any]], model: Glance | None) -> Data:
    """The section for a file of conversations.

    Raises:
        UserError: too few rows, or one that is no conversation.
    """
    source = str(path) if path.is_absolute() else path.as_posix()
    made, dropped = Rows(schema.Data(source=source)), Dropped()  # type: ignore[call-arg]
    found = {item.row.id: item.row for _, item in made.items(rows, dropped)}
    if len(found) < _LEAST:
        what = f"{len(found)} usable rows ({len(rows)} in all), and at least {_LEAST} are needed"
        raise UserError(what, where=str(path), fix="give more rows: some hundreds for a first try")
    assert made.found is not None
    about = [f"conversations of the form {made.found.label}: every answer of the assistant is trained"]
    if lost := dropped.text():
        about.append(f"not taken: {lost}")
    texts = [{"text": f"{plain_prompt(row.prompt)}\n{plain_answer(row.response)}"} for row in found.values()]
    held = _held_out(len(found))
    data = Data(
        source=source,
        prompt="",
        response="",
        about=tuple(about),
        splits=held,
        train=len(found) - sum(held),
        max_length=_max_length(texts, ["text"], "chat", model),
    )
    return _with_leakage(data, "chat") if len(found) <= _LEAK_ROWS else data


def _held_out(rows: int) -> tuple[int, int, int]:
    """Rows for validation, calibration and test, of so many."""
    return min(max(rows // 10, 8), 200), min(max(rows // 16, 8), 64), min(max(rows // 5, 16), 500)


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
    frame += LONGEST_ANSWER if frame and len(used) == 1 else 0
    limit = model.facts.positions if model is not None else None
    # Half a percent of rows beyond it is dropped, so that one long row does not set the length for all.
    most = counts[-1] if len(texts) < 400 else counts[-max(len(texts) // 200, 1)]
    return int(min(-(-(most + frame + 2) // 8) * 8, limit or 2048, 2048))


def _with_leakage(data: Data, template: str) -> Data:
    """The data with what its own splits say: rows that are left, and test rows that are nearly in train."""
    from distill2edge.data.prepare import prepare

    validation, calibration, test = data.splits
    default = schema.Data(source=data.source)  # type: ignore[call-arg]
    section = schema.Data(  # type: ignore[call-arg]
        source=data.source,
        filter=data.filter,
        template=template,  # type: ignore[arg-type]
        prompt=data.prompt or default.prompt,  # conversations have neither
        response=default.response if data.response == "" else data.response,
        choices=data.choices or None,
        splits=schema.Splits(train=None, validation=validation, calibration=calibration, test=test),
        leakage=schema.Leakage(near_duplicate=0.8, max_fraction=1.0, action="drop"),  # type: ignore[call-arg]
    )
    with tempfile.TemporaryDirectory() as work:
        facts = prepare(section, 0, Path(work), SilentProgress())
    fraction = float(facts["leakage"]["fraction"])
    data = replace(data, train=int(facts["splits"]["train"]["rows"]))
    if fraction <= schema.Leakage().max_fraction:  # type: ignore[call-arg]
        return data
    return replace(data, leaking=min(1.0, round(fraction + 0.005, 2)))
