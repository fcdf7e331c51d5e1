"""Whether rows of one split are in the test split too: they are dropped, and where they are many it is an error."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

from distill2edge.data import leakage
from distill2edge.data.encode import SPLITS
from distill2edge.data.selection import Rest
from distill2edge.data.sorted_items import Item
from distill2edge.errors import UserError
from distill2edge.recipe import schema
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_share

_SHOWN = 5  # leaking rows that data.json names


@dataclass
class Leaks:
    """What was found.

    Attributes:
        test: contents of the test rows.
        facts: for data.json.
    """

    found: leakage.LeakageReport
    test: list[leakage.Content]
    facts: dict[str, Any]


def check_splits(splits: dict[str, Collection[Item]], data: schema.Data) -> Leaks:
    """Compare train, validation and calibration with test, and drop leaking rows from them."""
    limits = data.leakage
    tested = list(splits["test"])
    others = [name for name in SPLITS if name != "test"]
    found = leakage.check(
        (item.content for name in others for item in splits[name]),
        [item.content for item in tested],
        limits.near_duplicate,
    )
    begins = dict(zip(others, accumulate((len(splits[name]) for name in others), initial=0), strict=False))
    named = _named(splits, begins, {leak.train for leak in found.leaks[:_SHOWN]})
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
            {**named[leak.train], "test": tested[leak.test].row.id, "similarity": round(leak.similarity, 4)}
            for leak in found.leaks[:_SHOWN]
        ],
    }
    if found.leaks and limits.action == "drop":
        for name, begin in begins.items():
            end = begin + len(splits[name])
            numbers = frozenset(leak.train - begin for leak in found.leaks if begin <= leak.train < end)
            splits[name] = _without(splits[name], numbers)
        facts["dropped"] = len({leak.train for leak in found.leaks})
    return Leaks(found, [item.content for item in tested], facts)


def _named(splits: Mapping[str, Collection[Item]], begins: Mapping[str, int], numbers: set[int]) -> dict[int, Any]:
    """Row and split of some rows, by their number over the splits."""
    found = {}
    for name, begin in begins.items():
        last = max((number for number in numbers if number < begin + len(splits[name])), default=-1)
        for number, item in enumerate(islice(splits[name], max(last + 1 - begin, 0)), begin):
            if number in numbers:
                found[number] = {"row": item.row.id, "split": name}
    return found


def _without(rows: Collection[Item], numbers: frozenset[int]) -> Collection[Item]:
    if isinstance(rows, Rest):
        return rows.without(numbers)
    return [item for number, item in enumerate(rows) if number not in numbers]


def refuse(report: Leaks, data: schema.Data, progress: Progress) -> None:
    """Warn of leaking rows that are kept.

    Raises:
        UserError: more of the test rows leak than the recipe allows.
    """
    found, limits = report.found, data.leakage
    if found.fraction > limits.max_fraction:
        first = leakage.readable(report.test[found.leaks[0].test])[:100]
        raise UserError(
            f"{found.exact + found.near} of {found.test_rows} test rows are in the training rows "
            f"({found.exact} exact, {found.near} near duplicates): {readable_share(found.fraction, 1)}, and "
            f"{readable_share(limits.max_fraction, 1)} is allowed; for instance {first!r}",
            where="data.leakage",
            fix="take the duplicates out of the source, or raise data.leakage.max_fraction to drop them from the "
            "training rows here",
        )
    if found.leaks and limits.action == "keep":
        progress.warn(f"{found.exact + found.near} test rows are in the training rows, and leakage.action keeps them")
