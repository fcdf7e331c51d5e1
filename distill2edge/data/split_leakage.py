"""Whether rows of one split are in the test split too: they are dropped, and where they are many it is an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill2edge.data import leakage
from distill2edge.data.encode import SPLITS
from distill2edge.data.selection import Item
from distill2edge.errors import UserError
from distill2edge.recipe import schema
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_share


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


def check_splits(splits: dict[str, list[Item]], data: schema.Data) -> Leaks:
    """Compare train, validation and calibration with test, and drop leaking rows from them."""
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
    if found.leaks and limits.action == "drop":
        leaking = {leak.train for leak in found.leaks}
        kept = [pair for index, pair in enumerate(seen) if index not in leaking]
        for name in SPLITS:
            if name != "test":
                splits[name] = [item for split, item in kept if split == name]
        facts["dropped"] = len(leaking)
    return Leaks(found, test, facts)


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
