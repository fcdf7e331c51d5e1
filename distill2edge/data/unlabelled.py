"""Rows that the teacher alone labels: read, and kept apart from the rows that have a response."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import count
from typing import Any

import numpy as np

from distill2edge.data import leakage
from distill2edge.data.row_sources import open_source
from distill2edge.data.rows import Dropped, Late, Rows
from distill2edge.data.selection import Selection
from distill2edge.data.sorted_items import Item
from distill2edge.errors import UserError
from distill2edge.recipe import schema
from distill2edge.util.progress import Progress


def is_unlabelled(item: Item) -> bool:
    """Whether a row has no response."""
    return not item.row.response


def room(data: schema.Data, spare: int) -> int | None:
    """Unlabelled rows to hold: those that are wanted, and more in place of those that will be dropped."""
    assert data.unlabelled is not None
    return None if data.unlabelled.rows is None else data.unlabelled.rows + spare


def read_unlabelled(
    data: schema.Data, seed: int, spare: int, progress: Progress, *, tagged: bool = False
) -> tuple[Selection, dict[str, Any]]:
    """The rows of `data.unlabelled.source`, and what data.json says of the source.

    Args:
        tagged: as of `data.rows.Rows`.

    Raises:
        UserError, EnvironmentFault: as `data.prepare.prepare`.
    """
    view = data.without_responses()
    source = open_source(view.source, view.config, view.split, progress, view.revision)
    rows, dropped, read = Rows(view, tagged=tagged), Dropped(), [0]
    pool = Selection(seed, room(data, spare))
    late = Late(dropped, list(source.splits))
    for at, (split, fields) in zip(count(0, Late.SPLIT), source.splits.items(), strict=False):
        for number, item in rows.items(_counted(fields, read), dropped, split if len(source.splits) > 1 else ""):
            if not pool.add(item, at + number):
                dropped.add("duplicate", split, number)
    pool.settle(late.add)
    late.tell()
    facts = {
        "source": view.source,
        "kind": source.kind,
        "revision": source.revision,
        "sha256": source.sha256,
        "licence": source.licence,
        "read": read[0],
        "dropped": {reason: count for reason, count in sorted(dropped.counts.items()) if count},
    }
    return pool, facts


def choose(pool: Selection, data: schema.Data, splits: dict[str, Collection[Item]], dropped: Dropped) -> list[Item]:
    """The rows of the pool that join the training rows, in the order of their hash.

    A row with the text of one that has a response is left out, and so is one that is too near to a test row: both are
    what to expect where labelled and unlabelled rows come from one source, so they are counted and no error.

    Args:
        dropped: counts them.

    Raises:
        UserError: none is left.
    """
    assert data.unlabelled is not None
    found = [item for group in pool.groups() for item in group]
    known = np.isin(_hashes(found), _hashes(item for items in splits.values() for item in items))
    apart = [item for item, labelled in zip(found, known, strict=True) if not labelled]
    test = [item.content for item in splits["test"]]
    report = leakage.check((item.content for item in apart), test, data.leakage.near_duplicate)
    near = {leak.train for leak in report.leaks}
    kept = [item for number, item in enumerate(apart) if number not in near]
    dropped.counts["labelled"] += len(found) - len(apart)
    dropped.counts["leaking"] += len(near)
    if not kept:
        why = f": {len(found) - len(apart)} have the text of a row with a response, {len(near)} are near a test row"
        raise UserError(
            f"no unlabelled row is left of {len(found)}{why if found else ': every row has a response'}",
            where="data.unlabelled",
            fix="give rows without a response, or take data.unlabelled out",
        )
    return kept[: data.unlabelled.rows]


def _hashes(items: Iterable[Item]) -> np.ndarray:
    """Of what they say: 8 bytes for each."""
    return np.fromiter((hash(leakage.normal_form(item.content)) for item in items), np.int64)


def _counted(rows: Iterable[Any], read: list[int]) -> Iterator[Any]:
    for row in rows:
        read[0] += 1
        yield row
