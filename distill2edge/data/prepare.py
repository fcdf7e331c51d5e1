"""The data stage: source -> rows of prompt and response -> four splits, checked for leakage, as Parquet."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill2edge.data import leakage
from distill2edge.data.encode import SPLITS, Row, row_id
from distill2edge.data.sources import POOL, Source, open_source
from distill2edge.data.templates import Filter, Template
from distill2edge.errors import UserError
from distill2edge.files import replacing, write_json
from distill2edge.progress import Progress
from distill2edge.recipe import schema

_HELD_OUT = ("test", "validation", "calibration")


@dataclass(frozen=True)
class _Item:
    """A row, and its content without the words of the template, by which duplicates are found."""

    row: Row
    content: str


def prepare(data: schema.Data, seed: int, work: Path, progress: Progress) -> dict[str, Any]:
    """Write `train`, `validation`, `calibration` and `test` as `.parquet`, and `data.json`.

    Rows go to splits by a hash of seed and content, so the same rows in another order give the same splits, and rows
    with the same content land in the same split. Splits that the source has keep their rows. Rows with the same
    prompt and response are taken once.

    Returns:
        the content of `data.json`.

    Raises:
        UserError: a missing or empty source, a field that a template names and a row lacks, a response that is no
            choice, too few rows, or test rows in train beyond `leakage.max_fraction`.
        EnvironmentFault: the source can't be reached.
    """
    source = open_source(data.source, data.config, data.split, progress, data.revision)
    if source.ignored and data.split is None:
        progress.warn(f"{data.source}: splits not used: {', '.join(source.ignored)} (data.split takes one)")
    dropped: Counter[str] = Counter()
    read: dict[str, int] = {}
    pools = _read(data, source, dropped, read)
    splits = _split(pools, data.splits, seed, data.source)
    report = _check_leakage(splits, data, progress)
    if data.splits.train is not None:
        dropped["not_needed"] += max(len(splits["train"]) - data.splits.train, 0)
        splits["train"] = splits["train"][: data.splits.train]
    if not splits["train"]:
        raise UserError("no training row is left", where="data", fix="lower data.splits, or mend the leakage")

    work.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        write_split(work / f"{name}.parquet", [item.row for item in splits[name]])
    facts = {
        "schema_version": 1,
        "source": data.source,
        "kind": source.kind,
        "config": data.config,
        "split": data.split,
        "revision": source.revision,
        "sha256": source.sha256,
        "licence": source.licence,
        "seed": seed,
        "read": read,
        "dropped": dict(sorted(dropped.items())),
        "splits": {name: _describe(splits[name], data.choices) for name in SPLITS},
        "leakage": report,
    }
    write_json(work / "data.json", facts)
    counts = ", ".join(f"{name} {len(splits[name]):,}" for name in SPLITS)
    progress.say(f"data: {counts}; leaking test rows: {report['exact']} exact, {report['near']} near")
    return facts


# --- rows -------------------------------------------------------------------


def _read(data: schema.Data, source: Source, dropped: Counter[str], read: dict[str, int]) -> dict[str, list[_Item]]:
    prompt = Template(data.prompt, "data.prompt") if data.template != "text" else None
    response = Template(data.response, "data.response")
    takes = Filter(data.filter, "data.filter") if data.filter else None
    fields = sorted((prompt or response).fields)
    pools: dict[str, list[_Item]] = {}
    for split, rows in source.splits.items():
        seen: set[str] = set()
        pool = pools.setdefault(split, [])
        number = 0
        for number, fields_of_row in enumerate(rows, 1):
            if takes and not takes.takes(fields_of_row, number):
                dropped["filter"] += 1
                continue
            question = prompt.render(fields_of_row, number) if prompt else ""
            answer = response.render(fields_of_row, number)
            if not answer.strip() or (prompt and not question.strip()):
                dropped["empty"] += 1
                continue
            label = -1
            if data.choices:
                label = _label(answer, data.choices, number)
                answer = data.choices[label]
            row = Row(row_id(question, answer), question, answer, label)
            if row.id in seen:
                dropped["duplicate"] += 1
                continue
            seen.add(row.id)
            pool.append(_Item(row, "\n".join(str(fields_of_row[name]) for name in fields if name in fields_of_row)))
        read[split] = number
    if not any(read.values()):
        raise UserError(f"{data.source} is empty", where="data.source", fix="give a source with rows")
    if not any(pools.values()):
        raise UserError(
            f"no row is left of {sum(read.values())}: {_reasons(dropped)}", where="data", fix="mend data.filter"
        )
    return pools


def _label(answer: str, choices: tuple[str, ...], number: int) -> int:
    for text in (answer, answer.strip()):
        for index, choice in enumerate(choices):
            if text in (choice, choice.strip()):
                return index
    raise UserError(
        f"row {number}: the response {answer[:80]!r} is none of the choices ({', '.join(map(repr, choices))})",
        where="data.response",
        fix="mend the template or data.choices, or leave such rows out with data.filter",
    )


def _reasons(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))


# --- splits -----------------------------------------------------------------


def _split(pools: dict[str, list[_Item]], sizes: schema.Splits, seed: int, source: str) -> dict[str, list[_Item]]:
    """Each split's rows, in the order of their hash."""
    splits: dict[str, list[_Item]] = {name: [] for name in SPLITS}
    pool = _in_hash_order([*pools.get(POOL, []), *pools.get("train", [])], seed)
    wanted = {name: getattr(sizes, name) for name in _HELD_OUT}
    for name in ("validation", "test"):
        if name in pools:
            splits[name] = [item for group in _in_hash_order(pools[name], seed) for item in group][: wanted[name]]
            wanted[name] = 0
    needed = sum(wanted.values())
    available = sum(len(group) for group in pool)
    if available <= needed:
        parts = ", ".join(f"{name} {count}" for name, count in wanted.items() if count)
        raise UserError(
            f"{available} usable rows in {source}, but the splits take {needed} ({parts}) before training",
            where="data.splits",
            fix="lower data.splits, or give more rows",
        )
    groups = iter(pool)
    for name in _HELD_OUT:
        while wanted[name] > 0 and (group := next(groups, None)):
            splits[name].extend(group)
            wanted[name] -= len(group)
    splits["train"] = [item for group in groups for item in group]
    return splits


def _in_hash_order(items: Iterable[_Item], seed: int) -> list[list[_Item]]:
    """Groups of rows with the same content, in an order that depends on seed and content alone."""
    groups: dict[bytes, list[_Item]] = {}
    for item in items:
        normal = leakage.normal_form(item.content) or item.row.id
        key = hashlib.sha256(f"{seed}\0{normal}".encode("utf-8", "surrogatepass")).digest()
        groups.setdefault(key, []).append(item)
    return [sorted(groups[key], key=lambda item: item.row.id) for key in sorted(groups)]


def _describe(items: list[_Item], choices: tuple[str, ...] | None) -> dict[str, Any]:
    total = hashlib.sha256("".join(item.row.id for item in items).encode()).hexdigest()
    facts: dict[str, Any] = {"rows": len(items), "sha256": total}
    if choices:
        labels = Counter(item.row.label for item in items)
        facts["choices"] = {choice: labels[index] for index, choice in enumerate(choices)}
    return facts


# --- leakage ----------------------------------------------------------------


def _check_leakage(splits: dict[str, list[_Item]], data: schema.Data, progress: Progress) -> dict[str, Any]:
    """Compare train, validation and calibration with test; drop leaking rows from them, or refuse."""
    limits = data.leakage
    test = [item.content for item in splits["test"]]
    seen = [(name, item) for name in SPLITS if name != "test" for item in splits[name]]
    found = leakage.check((item.content for _, item in seen), test, limits.near_duplicate)
    facts: dict[str, Any] = {
        "test_rows": found.test_rows,
        "exact": found.exact,
        "near": found.near,
        "fraction": round(found.fraction, 6),
        "near_duplicate": limits.near_duplicate,
        "max_fraction": limits.max_fraction,
        "action": limits.action,
        "dropped": 0,
        "examples": [
            {"row": seen[leak.train][1].row.id, "split": seen[leak.train][0], "test": splits["test"][leak.test].row.id,
             "similarity": round(leak.similarity, 4)}
            for leak in found.leaks[:5]
        ],
    }  # fmt: skip
    if found.fraction > limits.max_fraction:
        first = found.leaks[0]
        raise UserError(
            f"{found.exact + found.near} of {found.test_rows} test rows are in the training rows "
            f"({found.exact} exact, {found.near} near duplicates): {found.fraction:.1%}, and "
            f"{limits.max_fraction:.1%} is allowed; for instance {test[first.test][:100]!r}",
            where="data.leakage",
            fix="take the duplicates out of the source, or raise data.leakage.max_fraction to drop them from the "
            "training rows here",
        )
    if found.leaks and limits.action == "drop":
        leaking = {leak.train for leak in found.leaks}
        kept = [pair for index, pair in enumerate(seen) if index not in leaking]
        for name in SPLITS:
            if name != "test":
                splits[name] = [item for split, item in kept if split == name]
        facts["dropped"] = len(leaking)
    elif found.leaks:
        progress.warn(f"{found.exact + found.near} test rows are in the training rows, and leakage.action keeps them")
    return facts


def describe_rows(rows: list[Row]) -> dict[str, Any]:
    """Count and content hash of a split, as data.json has them."""
    return {"rows": len(rows), "sha256": hashlib.sha256("".join(row.id for row in rows).encode()).hexdigest()}


def write_split(path: Path, rows: list[Row]) -> None:
    """Write one split, whole or not at all; `data.encode.read_rows` reads it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = pa.schema(
        [("id", pa.string()), ("prompt", pa.string()), ("response", pa.string()), ("label", pa.int32())]
    )
    table = pa.Table.from_pydict({name: [getattr(row, name) for row in rows] for name in columns.names}, schema=columns)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
