"""The data stage: source -> rows of prompt and response -> four splits, checked for leakage, as Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any

from distill2edge.data.checks import check_classes, check_entities, check_prompts
from distill2edge.data.choice_sets import EMPTY, OneChoice
from distill2edge.data.described import Described
from distill2edge.data.encode import SPLITS
from distill2edge.data.examples import Row
from distill2edge.data.row_sources import POOL, Source, open_source
from distill2edge.data.rows import Dropped, Late, Rows
from distill2edge.data.selection import Rest, Selection
from distill2edge.data.sorted_items import Item
from distill2edge.data.split_files import read_rows, write_stream
from distill2edge.data.split_leakage import Leaks, check_splits, refuse
from distill2edge.data.unlabelled import choose, is_unlabelled, read_unlabelled, room
from distill2edge.errors import UserError
from distill2edge.recipe import schema
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

_HELD_OUT = ("test", "validation", "calibration")
_UNANSWERED = "no row has a response: the teacher's answers stand in for them, and scores are agreement with it"
_SPARE = 64  # rows held beyond those wanted, in place of those that leak
_TELL = 200_000  # rows between two lines about a long source


def prepare(
    data: schema.Data, seed: int, work: Path, progress: Progress, *, numeric: bool = False, tagged: bool = False
) -> dict[str, Any]:
    """Write `train`, `validation`, `calibration` and `test` as `.parquet`, and `data.json`.

    Rows go to splits by a hash of seed and content, so the same rows in another order give the same splits, and rows
    with the same content land in the same split. Splits that the source has keep their rows. Rows with the same
    prompt and response are taken once. Every row is read and checked; memory holds those that are wanted.

    Args:
        numeric: responses are numbers.
        tagged: rows are words with tags, or texts with entities.

    Returns:
        the content of `data.json`.

    Raises:
        UserError: a missing or empty source, a field that a template names and a row lacks, a value that is not text, a
            response outside the choices, that is no number where one is wanted, or that is inside the prompt, too few
            rows, one class alone, or test rows in train beyond `leakage.max_fraction`.
        EnvironmentFault: the source can't be reached.
    """
    rows = Rows(data, numeric=numeric, tagged=tagged)
    source = open_source(data.source, data.config, data.split, progress, data.revision)
    if source.ignored and data.split is None:
        progress.warn(f"{data.source}: splits not used: {', '.join(source.ignored)} (data.split takes one)")
    found, splits, report = _read_splits(rows, data, source, seed, progress)
    if rows.found is not None:
        progress.say(f"data: rows are of the form {rows.found.label}")
    dropped = found.dropped
    dropped.counts["leaking"] = report.facts["dropped"]
    dropped.counts["not_needed"] = found.usable - sum(map(len, splits.values())) - report.facts["dropped"]
    more, pool_facts = _unlabelled(found, splits, data, seed, progress, tagged)
    kept = {name: Described(rows.closed) for name in SPLITS}
    with _taken_back(work):
        for name in SPLITS:
            for part in _write(work / f"{name}.parquet", splits[name], more if name == "train" else ()):
                kept[name].add(part)
        checked = _check(rows, kept, work, data, found, progress, numeric)
    facts = {
        "schema_version": 1,
        **_origin(source, data),
        "seed": seed,
        "read": found.read,
        "dropped": {reason: count for reason, count in sorted(dropped.counts.items()) if count},
        "dropped_examples": dropped.examples,
        "splits": {name: kept[name].facts_with(data.choices) for name in SPLITS},
        "leakage": report.facts,
        **checked,
        **pool_facts,
        **_form(rows, found, progress),
    }
    if found.labels and data.choices:
        facts["classes"] = {choice: found.labels[index] for index, choice in enumerate(data.choices)}
    write_json(work / "data.json", facts)
    _tell(kept, len(more), report, found, progress)
    return facts


def _origin(source: Source, data: schema.Data) -> dict[str, Any]:
    """Where the rows come from."""
    named = {"source": data.source, "kind": source.kind, "config": data.config, "split": data.split}
    return {**named, "revision": source.revision, "sha256": source.sha256, "licence": source.licence}


@contextmanager
def _taken_back(work: Path) -> Iterator[None]:
    """Where the rows are refused after they were written, nothing of them stays."""
    new = not work.exists()
    work.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except UserError:
        for name in SPLITS:
            (work / f"{name}.parquet").unlink(missing_ok=True)
        if new:
            work.rmdir()
        raise


def _write(path: Path, items: Collection[Item], more: Sequence[Item]) -> Iterator[Sequence[Row]]:
    """Write a split, and more rows after it; gives what is written, a part at a time."""
    looked = [*more, *([] if isinstance(items, Rest) else items)]
    pool = items.selection if isinstance(items, Rest) else None
    numbered = any(item.row.number for item in looked) or (pool is not None and pool.numbered)
    paired = any(item.row.pair is not None for item in looked) or (pool is not None and pool.paired)
    return write_stream(path, (item.row for item in chain(items, more)), numbered=numbered, paired=paired)


def _check(
    rows: Rows,
    kept: dict[str, Described],
    work: Path,
    data: schema.Data,
    found: _Found,
    progress: Progress,
    numeric: bool,
) -> dict[str, Any]:
    """What data.json says of the responses: warnings, and entities where rows have them."""
    if data.response is None:
        progress.warn(_UNANSWERED)
    elif data.template != "text" and not data.choices and not numeric:
        check_prompts(kept["train"].first, data.leakage.response_in_prompt, shared=rows.shared)
    warnings = _classes(kept, data, rows.closed, found, progress)
    if rows.entities is None:
        return {"warnings": warnings}
    written = {name: read_rows(work, name) for name in SPLITS}
    return {"warnings": warnings, **check_entities(rows.entities, written, progress)}


def _form(rows: Rows, found: _Found, progress: Progress) -> dict[str, Any]:
    """What data.json says of the form of conversations, where the rows have one."""
    if rows.found is None:
        return {}
    if found.trimmed:
        progress.say(f"data: {found.trimmed:,} conversations end without an answer: they are taken up to the last")
    form = {"name": rows.found.form.name, "columns": list(rows.found.columns), "trimmed": found.trimmed}
    return {"form": form}


def _tell(kept: dict[str, Described], more: int, report: Leaks, found: _Found, progress: Progress) -> None:
    """Say how many rows each split has, and what was not taken; `more`: those of train without a response."""
    counts = ", ".join(f"{name} {kept[name].rows:,}" for name in SPLITS)
    counts += f" ({more:,} of train without a response)" if more else ""
    leaks = f"leaking test rows: {report.facts['exact']} exact, {report.facts['near']} near"
    progress.say(f"data: {counts}; {leaks}")
    if told := found.dropped.text():
        progress.say(f"data: {sum(found.read.values()):,} rows read; not taken: {told}")


def _classes(
    kept: dict[str, Described], data: schema.Data, closed: OneChoice | None, found: _Found, progress: Progress
) -> list[str]:
    """Warnings about the classes of the rows that have one."""
    if data.choices is None or closed is None or not any(each.answered for each in kept.values()):
        return []
    if closed.sets and (empty := found.dropped.counts["empty"]):
        progress.warn(
            f"{empty:,} rows are left out as without a prompt or a response: an empty text is a missing answer. Where "
            f'it means none of the choices, say so: data.response: "{EMPTY % "labels"}"'
        )
    return check_classes(kept, data.choices, found.labels, progress, closed)


# --- rows -------------------------------------------------------------------


@dataclass
class _Found:
    """What a pass over the source found.

    Attributes:
        pools: the rows that are held, by split of the source.
        read: rows read, by split.
        labels: rows of each class.
        trimmed: conversations without what came after their last answer.
        unlabelled: rows without a response, where they are kept.
    """

    pools: dict[str, Selection]
    dropped: Dropped = field(default_factory=Dropped)
    read: dict[str, int] = field(default_factory=dict)
    labels: Counter[int] = field(default_factory=Counter)
    trimmed: int = 0
    unlabelled: Selection | None = None

    @property
    def usable(self) -> int:
        """Rows that could have been taken."""
        return sum(pool.added for pool in self.pools.values())

    @property
    def let_go(self) -> bool:
        """Whether there are more rows to train on than those held."""
        return any(pool.full for name, pool in self.pools.items() if name in (POOL, "train"))


def _wanted(sizes: schema.Splits, source: Source) -> dict[str, int]:
    """Rows that each pool must give to the held-out splits."""
    own: dict[str, int] = {name: getattr(sizes, name) for name in ("validation", "test") if name in source.splits}
    rest = sum(getattr(sizes, name) for name in _HELD_OUT if name not in own)
    return {name: own.get(name, rest) for name in source.splits}


def _read(rows: Rows, data: schema.Data, source: Source, seed: int, spare: int, progress: Progress) -> _Found:
    wanted, train = _wanted(data.splits, source), data.splits.train
    found, rows.trimmed = _Found({}), 0
    if rows.entities is not None:
        rows.entities.strays = 0
    if data.unlabelled is not None and data.unlabelled.source is None:
        found.unlabelled = Selection(seed, room(data, spare))
    late = Late(found.dropped, list(source.splits) if len(source.splits) > 1 else [""])

    def labelled_twice(item: Item, number: int) -> None:
        late.add(item, number)
        if rows.closed is not None:
            found.labels.subtract(rows.closed.classes(item.row))

    for at, (split, fields) in zip(count(0, Late.SPLIT), source.splits.items(), strict=False):
        held: int | None = wanted[split]
        if split in (POOL, "train"):
            held = None if train is None else wanted[split] + train + spare
        pool = found.pools[split] = Selection(seed, held)
        name = split if len(source.splits) > 1 else ""
        for number, item in rows.items(_told(fields, split, found.read, progress), found.dropped, name):
            if is_unlabelled(item) and found.unlabelled is not None:
                if not found.unlabelled.add(item, at + number):
                    found.dropped.add("duplicate", name, number)
            elif pool.add(item, at + number):
                if rows.closed is not None:
                    found.labels.update(rows.closed.classes(item.row))
            else:
                found.dropped.add("duplicate", name, number)
        pool.settle(labelled_twice)
    if found.unlabelled is not None:
        found.unlabelled.settle(late.add)
    late.tell()
    if not any(found.read.values()):
        raise UserError(f"{data.source} is empty", where="data.source", fix="give a source with rows")
    found.trimmed = rows.trimmed
    if not found.usable:
        raise UserError(
            f"no row is left of {sum(found.read.values())}: {found.dropped.text()}",
            where="data",
            fix="correct data.filter, or the source",
        )
    return found


def _told(rows: Any, split: str, read: dict[str, int], progress: Progress) -> Iterator[Any]:
    """The rows, counted in `read`; a line now and then."""
    read[split] = 0
    for number, row in enumerate(rows, 1):
        read[split] = number
        if number % _TELL == 0:
            progress.say(f"data: {number:,} rows read")
        yield row


# --- splits -----------------------------------------------------------------


def _read_splits(
    rows: Rows, data: schema.Data, source: Source, seed: int, progress: Progress
) -> tuple[_Found, dict[str, Collection[Item]], Leaks]:
    """The source as splits, and what leaked from the test rows; read again with more held where too many leak.

    Raises:
        UserError: too few rows, more leakage than is allowed, or no training row left.
    """
    size, spare = data.splits.train, _SPARE + sum(_wanted(data.splits, source).values()) // 4
    while True:
        found = _read(rows, data, source, seed, spare, progress)
        splits = _split(found, data.splits, data.source)
        _check_test(splits["test"], found, data)
        report = check_splits(splits, data)
        if size is None or len(splits["train"]) >= size or not found.let_go:
            break
        spare *= 8  # so many rows leak that those held are not enough
    refuse(report, data, progress)
    train = splits["train"]
    splits["train"] = train.first(size) if isinstance(train, Rest) else train
    if not len(splits["train"]):
        raise UserError("no training row is left", where="data", fix="lower data.splits, or remove what leaks")
    return found, splits, report


def _check_test(test: Collection[Item], found: _Found, data: schema.Data) -> None:
    """Refuse a test split of the source's own that has nothing to score by, before hours of training.

    Raises:
        UserError: no row of it is usable.
    """
    if test:
        return
    read, bare = found.read.get("test", 0), found.dropped.counts["empty"]
    if found.unlabelled is not None:
        bare = found.unlabelled.added
    raise UserError(
        f"no row of the test split is usable: {read:,} were read"
        + (f", and {bare:,} rows of the source have no response" if bare else ""),
        where="data.splits.test",
        fix="give its rows a response, or name another split as the whole source (data.split: train)",
    )


def _unlabelled(
    found: _Found, splits: dict[str, Collection[Item]], data: schema.Data, seed: int, progress: Progress, tagged: bool
) -> tuple[list[Item], dict[str, Any]]:
    """The rows without a response that join the training rows, and what data.json says of them."""
    if data.unlabelled is None:
        return [], {}
    pool, facts = found.unlabelled, {}
    if pool is None:
        spare = _SPARE + 2 * sum(map(len, splits.values()))  # both may come from one source
        pool, facts = read_unlabelled(data, seed, spare, progress, tagged=tagged)
    chosen = choose(pool, data, splits, found.dropped)
    return chosen, {"unlabelled": {**facts, "rows": len(chosen), "found": pool.added}}


def _split(found: _Found, sizes: schema.Splits, source: str) -> dict[str, Collection[Item]]:
    """Each split's rows, in the order of their hash."""
    splits: dict[str, list[Item]] = {name: [] for name in _HELD_OUT}
    wanted = {name: getattr(sizes, name) for name in _HELD_OUT}
    pool = Selection(0, None)
    for name, selection in found.pools.items():
        if name in ("validation", "test"):
            splits[name] = [item for group in selection.groups() for item in group][: wanted[name]]
            wanted[name] = 0
        else:
            pool = selection
    needed, available = sum(wanted.values()), pool.count
    if available <= needed:
        parts = ", ".join(f"{name} {count}" for name, count in wanted.items() if count)
        raise UserError(
            f"{available} usable rows in {source}, but the splits take {needed} ({parts}) before training",
            where="data.splits",
            fix="lower data.splits, or give more rows",
        )
    groups, taken = pool.groups(), 0
    for name in _HELD_OUT:
        while wanted[name] > 0 and (group := next(groups, None)):
            splits[name].extend(group)
            wanted[name] -= len(group)
            taken, available = taken + 1, available - len(group)
    return {"train": Rest(pool, taken, available), **splits}
