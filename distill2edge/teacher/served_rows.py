"""What a server says of one row, as arrays that its journal keeps: the likeliest tokens at each supervised place."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.generation.endpoint.scores import Echo, Named
    from distill2edge.teacher.token_names import TokenNames

SCORED, OTHER, SILENT = "scored", "other tokens", "no log-probabilities"
"""How a row ends: scored, or left out and why."""


def by_ids(example: Encoded, names: TokenNames, named: Sequence[Named | None] | None) -> dict[str, Any]:
    """A row whose ids were sent: each place lists ids, that of the row among them."""
    if named is None:
        return left_out(SILENT, "the answer has none")
    if len(named) != len(example.ids):
        return left_out(OTHER, names.count(len(named), example.ids))
    found = []
    for at, (place, index) in enumerate(zip(named, example.ids, strict=True)):
        if place is not None and (
            index not in place.logprobs or not _spelt_alike(names, place.spelt.get(index), index)
        ):
            return left_out(OTHER, names.unlike(at, place.spelt.get(index, "?"), index))
        if example.mask[at]:
            if place is None:
                return left_out(SILENT, f"none for token {at + 1}")
            found.append({each: value for each, value in place.logprobs.items() if each < names.size})
    return _packed(found, 0)


def by_echo(example: Encoded, names: TokenNames, echo: Echo | None, late: int) -> dict[str, Any]:
    """A row whose text was sent: each place lists spellings, of which those count that one token alone has.

    Args:
        late: places by which the lists are behind.
    """
    if echo is None:
        return left_out(SILENT, "the answer has none")
    places = names.places(echo.tokens, example.ids)
    if places is None:
        return left_out(OTHER, names.difference(echo.tokens, example.ids))
    found, unnamed = [], 0
    for at in (at for at, on in enumerate(example.mask) if on):
        place = places.get(at - late)
        if place is None or not (listed := echo.top[place]):
            return left_out(SILENT, f"none for token {at + 1}")
        known = {index: value for name, value in listed.items() if (index := names.id_of(name)) is not None}
        if not late and (own := echo.own[place]) is not None:
            known[example.ids[at]] = own
        if not known:
            return left_out(SILENT, f"none that stands for one token, for token {at + 1}")
        unnamed += len(listed) - len(known)
        found.append(known)
    return _packed(found, max(unnamed, 0))


def left_out(finish: str, said: str) -> dict[str, Any]:
    """What is kept of a row that could not be scored."""
    return {"finish": finish, "said": said}


def unpacked(record: Mapping[str, Any], positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a row that was scored: ids [p, k] int32, -1 where fewer are listed; log-probabilities [p, k] float32."""
    ids, logprobs = (
        np.frombuffer(base64.b64decode(record[name]), dtype=kind).reshape(positions, record["k"])
        for name, kind in (("ids", "<i4"), ("logprobs", "<f4"))
    )
    return ids, logprobs


def _spelt_alike(names: TokenNames, name: str | None, index: int) -> bool:
    """Whether a spelling can be the token's; of bytes that are no text, and of blanks, a server says little."""
    return name is None or "\ufffd" in name or not name.strip() or names.fits(name, index)


def _packed(found: Sequence[Mapping[int, float]], unnamed: int) -> dict[str, Any]:
    k = max(map(len, found))
    ids = np.full((len(found), k), -1, dtype="<i4")
    logprobs = np.zeros((len(found), k), dtype="<f4")
    for row, listed in enumerate(found):
        for column, (index, value) in enumerate(sorted(listed.items(), key=lambda each: (-each[1], each[0]))):
            ids[row, column], logprobs[row, column] = index, value
    return {"finish": SCORED, "k": k, "unnamed": unnamed, "ids": _text(ids), "logprobs": _text(logprobs)}


def _text(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
