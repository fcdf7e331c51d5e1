"""Pairs of texts with a gold score, of `verify.pairs`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from distill2edge.data.numbers import number_of
from distill2edge.data.row_sources import open_source
from distill2edge.data.templates import Filter, Template
from distill2edge.errors import UserError
from distill2edge.recipe.gold_pairs import GoldPairs
from distill2edge.util.progress import Progress

WHERE = "verify.pairs"
LEAST = 3
"""Pairs that have an order worth a figure."""


class GoldPair(NamedTuple):
    """Two texts, and how alike they are."""

    first: str
    second: str
    score: float


def read_pairs(spec: GoldPairs, progress: Progress) -> list[GoldPair]:
    """Every pair, or the wanted number of them; the same pairs in another order give the same.

    Raises:
        UserError: a source that is not there, a row without a field that a template names, a text that is empty, a
            score that is no number, fewer than three pairs, or scores that are all one.
        EnvironmentFault: a source that cannot be reached.
    """
    with named():
        source = open_source(spec.source, spec.config, spec.split, progress, spec.revision)
        takes = Filter(spec.filter, f"{WHERE}.filter") if spec.filter else None
        first, second, score = (
            Template(getattr(spec, name), f"{WHERE}.{name}") for name in ("first", "second", "score")
        )
        found = []
        for rows in source.splits.values():
            for number, row in enumerate(rows, 1):
                if takes is not None and not takes.takes(row, number):
                    continue
                texts = {name: each.render(row, number) for name, each in (("first", first), ("second", second))}
                for name, text in texts.items():
                    if not text.strip():
                        raise _refused(f"row {number} has an empty text", name)
                found.append(GoldPair(**texts, score=_number(score.render(row, number), number)))
    found.sort(
        key=lambda pair: hashlib.sha256(f"{pair.first}\0{pair.second}".encode("utf-8", "surrogatepass")).digest()
    )
    found = found[: spec.rows]
    if len(found) < LEAST:
        raise UserError(f"{len(found)} pairs of {spec.source} are left, and a correlation needs {LEAST}",
                        where=f"{WHERE}.source", fix="give more pairs, or leave verify.pairs out")  # fmt: skip
    if len({pair.score for pair in found}) == 1:
        what = f"every score is {found[0].score:g}: such pairs have no order"
        raise UserError(what, where=f"{WHERE}.score", fix="name the field that says how alike the two texts are")
    return found


def _number(text: str, number: int) -> float:
    found = number_of(text)
    if found is None:
        raise _refused(f"row {number}: the score is {text.strip()[:60]!r}, which is not a number", "score")
    return found


def _refused(what: str, key: str) -> UserError:
    fix = f"name the field that holds it, or leave such rows out with {WHERE}.filter"
    return UserError(what, where=f"{WHERE}.{key}", fix=fix)


@contextmanager
def named() -> Iterator[None]:
    """Errors about a source speak of the data's keys: inside, they are those of the pairs."""
    try:
        yield
    except UserError as error:
        where, fix = (re.sub(r"\bdata\.(\w+)", rf"{WHERE}.\1", text) for text in (error.where, error.fix))
        raise type(error)(error.what, where=where or f"{WHERE}.source", fix=fix) from error
