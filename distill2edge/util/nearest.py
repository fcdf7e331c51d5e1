"""The word of a closed set that somebody meant: misspelt, in other letters, or cut short."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

_LONGEST, _MOST = 80, 2000  # characters of a word, and words, that are compared


def nearest(word: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The known word that is meant, if any looks like it: `q4km` for `Q4_K_M`, `fkl` and `forward` for `forward_kl`.

    Args:
        cutoff: how much of two spellings is the same, at least (`difflib`).
    """
    word, known = word.strip()[:_LONGEST], list(known)[:_MOST]
    bare = _bare(word)
    if not bare:
        return None
    for alike in (
        [name for name in known if _bare(name) == bare],
        [name for name in known if _bare(name).startswith(bare)],
        [name for name in known if bare == "".join(part[:1] for part in _parts(name))],  # lr: learning_rate
    ):
        if len(alike) == 1:
            return alike[0]
    spelled = {name.casefold(): name for name in reversed(known)}
    if found := difflib.get_close_matches(word.casefold(), list(spelled), n=1, cutoff=cutoff):
        return spelled[found[0]]
    short = [name for name in known if _bare(name)[0:1] == bare[0] and _within(bare, _bare(name))]
    return short[0] if len(short) == 1 and len(bare) > 1 else None


def meant(word: str, known: Sequence[str], cutoff: float = 0.6) -> str:
    """`did you mean X? ` with its blank, to stand before what else there is to say; or nothing."""
    near = nearest(word, known, cutoff)
    return "" if near is None else f"did you mean {near}? "


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[^0-9a-z]+", name.casefold()) if part]


def _bare(name: str) -> str:
    return "".join(_parts(name)) or name.casefold()


def _within(short: str, name: str) -> bool:
    """Whether the letters stand in the name in this order."""
    letters = iter(name)
    return all(letter in letters for letter in short)
