"""The rows that a recipe names: whether they are here and can be read, and whether they have what its templates ask."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from distill2edge.data.checks import check_prompts
from distill2edge.data.choice_sets import closed_of
from distill2edge.data.conversation import plain_answer, plain_prompt
from distill2edge.data.encode import encode_rows
from distill2edge.data.examples import Row
from distill2edge.data.gold_pairs import WHERE as PAIRS
from distill2edge.data.gold_pairs import named, read_pairs
from distill2edge.data.numbers import check_number
from distill2edge.data.readers import reader_of, unknown_kind
from distill2edge.data.row_sources import local_files
from distill2edge.data.rows import Dropped, Rows, lacks_response
from distill2edge.data.sorted_items import Item
from distill2edge.data.templates import Filter, Template
from distill2edge.data.text_pairs import pair_frame
from distill2edge.errors import Problem, UserError
from distill2edge.intake import bundled
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.preflight.fields import missing
from distill2edge.preflight.models import tokenizers_here
from distill2edge.preflight.passed import passed
from distill2edge.preflight.places import said
from distill2edge.recipe.canonical import canonical
from distill2edge.recipe.paths import is_astray
from distill2edge.recipe.schema import Data, Recipe
from distill2edge.tasks import task_of
from distill2edge.util.progress import SilentProgress

_LOOKED_AT = 200  # rows that are read of a large source
_SMALL = 4 << 20  # bytes of a source that is read to its end, so that its rows are counted
_ROWS_OF_BUNDLE = 20_000  # all that any has
_RENDERED = 50  # rows that go through the templates
_MOST = 0.9  # share of these with the answer in the prompt that leaves no doubt of the rest
_BUNDLED_COLUMNS = ("id", "score", "text")


def problems(recipe: Recipe, notes: list[str]) -> Iterator[Problem]:
    """What the data stage would refuse, as far as it can be seen in the first rows."""
    yield from _problems(recipe, notes)
    yield from _asked(recipe)
    yield from _gold_pairs(recipe)
    if _has_pool(recipe):
        view = recipe.model_copy(update={"data": recipe.data.without_responses()})
        for problem in _problems(view, notes):
            if problem.path[1:] != ("splits",):
                path = ("data", "unlabelled", *problem.path[1:])
                yield Problem(path, *(_of_pool(text) for text in (problem.what, problem.fix)))


def _gold_pairs(recipe: Recipe) -> Iterator[Problem]:
    """Pairs that are not what `verify.pairs` says of them, where they are on this machine."""
    spec = recipe.verify.pairs
    try:
        with named():
            here = spec is not None and _is_here(spec.source)
        if spec is not None and here:
            read_pairs(spec, SilentProgress())
    except UserError as error:
        own = error.where.startswith(PAIRS)
        path = tuple((error.where if own else PAIRS).split("."))
        yield Problem(path, error.what if own else f"{error.where}: {error.what}", error.fix)


def _asked(recipe: Recipe) -> Iterator[Problem]:
    """A prompt of the teacher that says nothing of the text, or names what it does not have."""
    ask, where = recipe.teacher.ask, ("teacher", "ask", "prompt")
    if ask is None:
        return
    made: list[Template] = []
    yield from said(where, lambda: made.append(Template(ask.prompt, ".".join(where))))
    for template in made:
        pair = recipe.data.pair is not None
        if other := sorted(template.fields - {"prompt", "choices", *(["pair"] if pair else [])}):
            known = "prompt, pair (what the student reads)" if pair else "prompt (what the student reads)"
            what = f"it names {other[0]}, and it has {known} and choices"
            yield Problem(where, what, "write {{ prompt }} where the text shall stand")
        elif "prompt" not in template.fields:
            yield Problem(where, "it is the same for every text", "write {{ prompt }} where the text shall stand")
        elif pair and "pair" not in template.fields:
            what = "it says nothing of the second text of a row"
            yield Problem(where, what, "write {{ pair }} where that shall stand, beside {{ prompt }}")


def _of_pool(text: str) -> str:
    """Words about the data's keys, said of the pool's."""
    return re.sub(r"\bdata\.(source|config|revision|split|filter|prompt|pair)\b", r"data.unlabelled.\1", text)


def _has_pool(recipe: Recipe) -> bool:
    """Whether rows without a response come from a source of their own."""
    return recipe.data.unlabelled is not None and recipe.data.unlabelled.source is not None


def _problems(recipe: Recipe, notes: list[str]) -> Iterator[Problem]:
    data = recipe.data
    templates: dict[str, Template | Filter] = {}
    broken: list[Problem] = []
    for key in _keys(data):
        broken += said(("data", key), lambda key=key: templates.update({key: _compiled(data, key)}))  # type: ignore[misc]
    yield from broken
    files: list[Path] = []
    whole = [*said(("data", "source"), lambda: files.extend(local_files(data.source) or ()))]
    yield from whole
    if whole:
        return
    if is_astray(data.source):
        notes.append(
            f"data.source: {data.source} is in the current directory, not beside the recipe: a run from "
            "another directory will not find it"
        )
    try:
        rows, complete = _peek(data.source, files)
    except UserError as error:
        yield Problem(("data", "source"), f"{error.where}: {error.what}" if error.where else error.what, error.fix)
        return
    if not rows:
        if complete and files:
            yield Problem(("data", "source"), f"{data.source} is empty", "give a source with rows")
        return
    if task_of(recipe).tagged:
        yield from () if broken else _tagged(recipe, rows, complete)
        return
    if not broken and data.looks_for_a_form:
        made = Rows(data, numeric=task_of(recipe).numeric)
        unread = [*said(("data", "form"), lambda: _look(made, rows))]
        yield from unread
        if unread or made.found is not None:
            yield from () if unread else _conversations(recipe, made, rows, complete)
            return
    absent = [*missing(data, templates, rows, files)]
    yield from absent
    for model in tokenizers_here(recipe) if data.pair is not None and recipe.teacher.ask is None else ():
        yield from said(("data", "pair"), partial(passed, partial(_reads_pairs, model), "pairs", [model]))
    if not absent and not broken:
        yield from _rendered(recipe, templates, rows, complete)
        if recipe.verify.min_ndcg_retained is not None and complete:
            yield from _ranked(recipe, templates, rows)


def _ranked(recipe: Recipe, templates: dict[str, Template | Filter], rows: list[dict[str, Any]]) -> Iterator[Problem]:
    """Second texts that are ranked, where no two rows share the first one."""
    data = recipe.data
    taken = [row for number, row in enumerate(rows, 1) if _takes(templates.get("filter"), row, number)]
    try:
        first = [_texts(data, templates, row, number)["prompt"] for number, row in enumerate(taken, 1)]
    except (UserError, KeyError):
        return  # said already
    if len(set(first)) == len(first):
        what = "verify.min_ndcg_retained ranks the texts of a query, and no two rows share their first text"
        yield Problem(("verify", "min_ndcg_retained"), what, "take it out, or let data.prompt be the query alone")


def _tagged(recipe: Recipe, rows: list[dict[str, Any]], complete: bool) -> Iterator[Problem]:
    """What rows of words with tags, or of texts with entities, become."""
    if all(value is None for row in rows for value in row.values()):
        return  # bundled rows that are not here
    if recipe.data.choices is None:
        return  # said of them
    try:
        made = Rows(recipe.data, tagged=True)
    except UserError:
        return  # said of data.choices
    dropped, taken = Dropped(), list[Item]()
    unread = [*said(("data", "entities"), lambda: taken.extend(item for _, item in made.items(rows, dropped)))]
    yield from unread
    if not unread and not taken:
        what = f"no row is left of the first {len(rows)}: {dropped.text()}"
        yield Problem(("data", "source"), what, "give rows of words with tags, or of texts with entities")
    elif not unread and complete:
        yield from _too_few(recipe, len(taken))


def _look(made: Rows, rows: list[dict[str, Any]]) -> None:
    """Find the form of the rows, as the data stage will: by the first that the filter leaves."""
    for number, row in enumerate(rows, 1):
        try:
            taken = made.takes(row, number)
        except UserError:
            return  # said of data.filter
        if taken:
            made.look(row)
            return


def _conversations(recipe: Recipe, made: Rows, rows: list[dict[str, Any]], complete: bool) -> Iterator[Problem]:
    """What the first conversations become, in the words of every tokenizer that is here."""
    dropped = Dropped()
    items: list[tuple[int, Item]] = []
    looked = rows if complete else rows[:_RENDERED]
    unread = [*said(("data", "form"), lambda: items.extend(made.items(looked, dropped)))]
    yield from unread
    if unread:
        return
    if looked and not items:
        what = f"no row is left of the first {len(looked)}: {dropped.text()}"
        yield Problem(("data", "source"), what, "give conversations with an answer of the assistant")
        return
    first = [item.row for _, item in items[:_RENDERED]]
    for model in tokenizers_here(recipe) if recipe.data.template == "chat" else ():
        about = [canonical(recipe.data), [asdict(row) for row in first]]
        check = partial(_encoded, recipe.data, first, model)
        yield from said(("data", "template"), partial(passed, check, "conversations", [model], about))
    if complete:
        yield from _too_few(recipe, len(items))


def _reads_pairs(directory: Path) -> None:
    pair_frame(load_tokenizer(directory))


def _encoded(data: Data, rows: list[Row], directory: Path) -> None:
    tokenizer = load_tokenizer(directory)
    encode_rows(rows, tokenizer, "chat", data.system, 1 << 30, supervise=data.supervise)


def sample(recipe: Recipe, count: int) -> tuple[list[tuple[str, str]], int | None]:
    """Prompts (with second texts) and responses of the first rows that are here, and how many rows a source has that
    was read to its end.

    Nothing is said of what cannot be read: `problems` does.
    """
    data, pairs = recipe.data, []
    try:
        templates = {key: _compiled(data, key) for key in _keys(data)}
        rows, complete = _peek(data.source, local_files(data.source) or [])
        made = Rows(data, tagged=task_of(recipe).tagged)
        if made.entities is not None:
            texts_of = [item.row for _, item in made.items(rows, Dropped())]
            return [(row.prompt, "") for row in texts_of[:count]], len(texts_of) if complete else None
        if data.looks_for_a_form and rows:
            _look(made, rows)
        if made.found is not None:
            items = [item.row for _, item in made.items(rows, Dropped())]
            pairs = [(plain_prompt(row.prompt), plain_answer(row.response)) for row in items[:count]]
            return pairs, len(items) if complete else None
        taken = [row for number, row in enumerate(rows, 1) if _takes(templates.get("filter"), row, number)]
        for number, row in enumerate(taken[:count], 1):
            texts = _texts(data, templates, row, number)
            read = [texts[name] for name in ("prompt", "pair") if name in texts]
            pairs.append(("\n".join(read), texts.get("response", "")))
    except UserError:
        return [], None
    return pairs, len(taken) if complete else None


def _takes(condition: Template | Filter | None, row: dict[str, Any], number: int) -> bool:
    return not isinstance(condition, Filter) or condition.takes(row, number)


def unseen(recipe: Recipe) -> list[str]:
    """Data that is not here yet."""
    data = recipe.data
    pairs = [] if recipe.verify.pairs is None else [recipe.verify.pairs.source]
    pool = [data.without_responses().source] if _has_pool(recipe) else []
    sources = dict.fromkeys([data.source, *pool, *pairs])
    return [source for source in sources if not _is_here(source)]


def _is_here(source: str) -> bool:
    if source.startswith("bundled:"):
        return bundled.cached_path(source.removeprefix("bundled:")) is not None
    return local_files(source) is not None


def _keys(data: Data) -> list[str]:
    keys = ["filter"] if data.filter else []
    return [
        *keys,
        *(["prompt"] if data.template != "text" else []),
        *(["pair"] if data.pair is not None else []),
        *(["response"] if data.response is not None else []),
    ]


def _compiled(data: Data, key: str) -> Template | Filter:
    source = getattr(data, key)
    lists = data.multi and key == "response"
    return Filter(source, "data.filter") if key == "filter" else Template(source, f"data.{key}", lists=lists)


def _peek(source: str, files: list[Path]) -> tuple[list[dict[str, Any]], bool]:
    """The first rows of a source, and whether they are all; none of what is not here."""
    if not files:
        name = source.removeprefix("bundled:")
        if not source.startswith("bundled:"):
            return [], False
        if bundled.cached_path(name) is None:
            return [dict.fromkeys(_BUNDLED_COLUMNS)], False
        return list(islice(bundled.rows(name, SilentProgress()), _ROWS_OF_BUNDLE)), True
    if any(path.suffix.lower() == ".json" and path.stat().st_size > 50 * _SMALL for path in files):
        return [], False  # such a file is one value, read as a whole
    small = sum(path.stat().st_size for path in files) <= _SMALL
    rows = list(islice(_chain(files), None if small else _LOOKED_AT))
    return rows, small


def _chain(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        reader = reader_of(path)
        if reader is None:
            raise unknown_kind(path)
        yield from reader(path)


def _rendered(
    recipe: Recipe, templates: dict[str, Template | Filter], rows: list[dict[str, Any]], complete: bool
) -> Iterator[Problem]:
    """What the first rows become: prompts and responses, of the choices where there are some."""
    data, usable, numeric = recipe.data, 0, task_of(recipe).numeric
    closed, response = closed_of(data), templates.get("response")
    found: dict[str, Problem] = {}
    made: list[Row] = []
    for number, row in enumerate(rows, 1):
        if all(value is None for value in row.values()):
            return  # bundled rows that are not here: their fields are known, not what is in them
        try:
            if "filter" in templates and not templates["filter"].takes(row, number):  # type: ignore[union-attr]
                continue
            usable += 1
            if number > _RENDERED:
                continue
            texts = _texts(data, templates, row, number)
            if numeric and texts.get("response", "").strip():
                check_number(texts["response"], number)
        except UserError as error:
            key = error.where.removeprefix("data.")
            found.setdefault(key, Problem(("data", key if key in templates else "source"), error.what, error.fix))
            if len(found) == len(templates):
                break
            continue
        answer = texts.get("response", "")
        if answer.strip() and texts.get("prompt", "").strip():
            made.append(Row("", texts["prompt"], answer))
        if closed is not None and isinstance(response, Template) and "choices" not in found and answer.strip():
            try:
                closed.read(answer, response, row, number)
            except UserError as wrong:
                found["choices"] = Problem(("data", "response"), wrong.what, wrong.fix)
    if not data.choices and not numeric and not found and "response" in templates:
        shared = bool(templates["prompt"].whole & templates["response"].fields) if "prompt" in templates else False  # type: ignore[union-attr]
        limit = max(data.leakage.response_in_prompt, _MOST)
        yield from said(("data", "prompt"), lambda: check_prompts(made, limit, shared=shared))
    yield from found.values()
    if complete and not found:
        yield from _too_few(recipe, usable)


def _texts(data: Data, templates: dict[str, Template | Filter], row: dict[str, Any], number: int) -> dict[str, str]:
    """Prompt, second text and response of a row, as far as it has them."""
    asked = {key: template for key, template in templates.items() if isinstance(template, Template)}
    if "response" in asked and lacks_response(data, asked["response"], row):
        del asked["response"]
    return {key: template.render(row, number) for key, template in asked.items()}


def _too_few(recipe: Recipe, usable: int) -> Iterator[Problem]:
    splits = recipe.data.splits
    needed = splits.validation + splits.calibration + splits.test
    named = recipe.data.split is None and recipe.data.source.startswith(("package:", "bundled:")) is False
    if not usable:
        what = f"data.filter leaves none of the rows of {recipe.data.source}"
        yield Problem(("data", "filter"), what, "compare with a value that the file has, as the file writes it")
        return
    if usable <= needed and not (named and _has_splits(recipe.data.source)):
        third = max(usable // 6, 1)
        yield Problem(
            ("data", "splits"),
            f"{usable} rows in {recipe.data.source}, but the splits take {needed} (validation {splits.validation}, "
            f"calibration {splits.calibration}, test {splits.test}) before training",
            f"give more rows, or lower them: {{validation: {third}, calibration: {third}, test: {third}}}"
            if usable > 3 * third
            else "give more rows: some hundreds for a first try",
        )


def _has_splits(source: str) -> bool:
    """Whether the files may be named after splits, whose rows stay where they are."""
    return len(local_files(source) or ()) > 1
