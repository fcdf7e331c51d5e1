"""What an endpoint says, as a class: the text of an answer, or the log-probabilities of its first token."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence

PRIOR = 0.5
"""Added to the count of each class (Jeffreys' prior), so that none is ruled out by a few answers."""


_GLUED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese set no blanks between words."""
_CLAUSE = re.compile(r"[.,;:!?\n\u3001\u3002\uff0c\uff1b]|\b(?:but|aber|mais|pero)\b|\u4f46|\u800c\u662f")
_NOT = re.compile(
    r"\b(?:not?(?! (?:doubt|question|only)\b)|never|none|nor|neither|non|cannot|hardly|barely|far from|anything but"
    r"|rather than|instead of|nicht|nie|kein\w*|weder|niet|geen|pas|jamais|ni|n\u00e3o|nunca|nem"
    r"|\u043d\u0435|\u043d\u0435\u0442)\b"
    r"|n['\u2019]t\b"
    r"|[\u4e0d\u6ca1\u6c92\u672a\u65e0\u7121]|\u975e(?!\u5e38)"  # Chinese; but `very` begins as one of them
    r"|\u0e44\u0e21\u0e48"  # Thai
)
_NOT_AFTER = re.compile(
    r"^\W+(?:no|not|nein|non)\W*$|^\W*(?:is|was|would be) (?:not|wrong|incorrect|false)\b"  # `good? no`
    r"|\u306a\u3044|\u306a\u304b\u3063|\u307e\u305b\u3093"  # Japanese
    r"|\uc544\ub2c8|\uc544\ub2d9|\uc54a|\ubabb"  # Korean
)


def choice_of(text: str, answers: Sequence[str]) -> int | None:
    """The answer that a text is: the whole of it, or the only one that stands in it.

    None where it names none, several, or one that its clause denies (`not good`).
    """
    said, known = _normal(text), [_normal(answer) for answer in answers]
    for whole, each in ((text.strip(), [answer.strip() for answer in answers]), (said, known)):
        if whole and each.count(whole) == 1:
            return each.index(whole)
    named = _named(said, known)
    if len({at for at, _, _ in named}) != 1:
        return None
    bare = said
    for _, begin, end in named:  # an answer may itself be `no`
        bare = bare[:begin] + "\0" * (end - begin) + bare[end:]
    return None if any(_denied(bare[:begin], bare[end:]) for _, begin, end in named) else named[0][0]


_EMPTY = re.compile(
    r"(?:none|nothing|no (?:label|topic|choice|categor(?:y|ie))s?)"
    r"(?: appl(?:y|ies)| (?:of|from) (?:the\w*|these|those).*)?"
)
"""What an answer says that names none of the choices on purpose."""


def choices_of(text: str, answers: Sequence[str]) -> tuple[int, ...] | None:
    """The answers that a text names, each once, in their order; empty where it says that none applies (`none`, `[]`).

    An answer that its clause denies (`drama, but not war`) is not named. None where nothing can be read: no answer is
    named and `none` is not said, each one is denied, or one is both.
    """
    said, known = _normal(text), [_normal(answer) for answer in answers]
    named = _named(said, known)
    if not named:
        return () if _EMPTY.fullmatch(said) or said.replace(" ", "") == "[]" else None
    bare = said
    for _, begin, end in named:
        bare = bare[:begin] + "\0" * (end - begin) + bare[end:]
    denied = {at for at, begin, end in named if _denied(bare[:begin], bare[end:])}
    stands = {at for at, begin, end in named if not _denied(bare[:begin], bare[end:])}
    return None if denied & stands or not stands else tuple(sorted(stands))


def logits_of_sets(counts: Sequence[int], answers: int) -> list[float]:
    """[C] the logit of each label's smoothed share among so many answers that could be read."""
    return [math.log((count + PRIOR) / (answers - count + PRIOR)) for count in counts]


def _named(said: str, known: Sequence[str]) -> list[tuple[int, int, int]]:
    """(answer, begin, end) of each that stands in a text, and is no part of another: `very good` is not also `good`."""
    found = []
    for at, answer in enumerate(known):
        begin = said.find(answer) if answer else -1
        while begin >= 0:
            if _begins_word(said, begin) and _ends_word(said, begin + len(answer)):
                found.append((at, begin, begin + len(answer)))
            begin = said.find(answer, begin + 1)
    return [
        (at, begin, end)
        for at, begin, end in found
        if not any(low <= begin and end <= high and end - begin < high - low for _, low, high in found)
    ]


def _denied(before: str, after: str) -> bool:
    """Whether what stands around an answer denies it."""
    return _NOT.search(_CLAUSE.split(before)[-1]) is not None or _NOT_AFTER.search(after) is not None


def _begins_word(text: str, at: int) -> bool:
    """Whether a word begins here; between letters of scripts without blanks one may everywhere."""
    left, right = text[at - 1 : at], text[at : at + 1]
    if right.isdigit() and re.search(r"\d[.,]$", text[:at]):
        return False
    free = _GLUED.match(left) or _GLUED.match(right) or _is_hangul(left) != _is_hangul(right)
    return bool(free) or not (_in_word(left) and _in_word(right))


def _ends_word(text: str, at: int) -> bool:
    """Whether a word ends here; a particle may follow in Korean."""
    left, right = text[at - 1 : at], text[at : at + 1]
    if left.isdigit() and re.match(r"[.,]\d", text[at:]):
        return False
    free = _GLUED.match(left) or _GLUED.match(right) or _is_hangul(right)
    return bool(free) or not (_in_word(left) and _in_word(right))


def _in_word(char: str) -> bool:
    """Letters, digits, and the marks that belong to a letter."""
    return bool(char) and (char == "_" or unicodedata.category(char)[0] in "LNM")


def _is_hangul(char: str) -> bool:
    return "\uac00" <= char <= "\ud7af"


def scores_of_counts(counts: Sequence[int]) -> list[float] | None:
    """[C] log of the smoothed share of each answer; None where there was none to count."""
    total = sum(counts)
    if not total:
        return None
    return [math.log((count + PRIOR) / (total + PRIOR * len(counts))) for count in counts]


def scores_of_first(alternatives: Sequence[tuple[str, float]], answers: Sequence[str]) -> list[float] | None:
    """[C] log of the mass of the first tokens that only this answer begins with.

    A server lists the likeliest tokens alone: an answer that none of them begins gets half the mass of the least. A
    token that several answers begin with tells nothing; where such tokens have more than the others, nothing is told.

    Args:
        alternatives: (token, log-probability) of the first token.

    Returns:
        None where no token tells answers apart.
    """
    known, mass, shared = [_normal(answer) for answer in answers], [0.0] * len(answers), 0.0
    for token, logprob in alternatives:
        said = _normal(token)
        begun = [at for at, answer in enumerate(known) if said and (answer.startswith(said) or _begins(said, answer))]
        if len(begun) == 1:
            mass[begun[0]] += math.exp(logprob)
        elif begun:
            shared += math.exp(logprob)
    if sum(mass) <= shared:
        return None
    named = [math.exp(logprob) for _, logprob in alternatives]
    least = max(min(min(named) / 2, 1 - sum(named)), 1e-12)  # what is not named has no more than the rest
    return [math.log(max(each, least)) for each in mass]


def _normal(text: str) -> str:
    """Without case, forms of Unicode, and what stands around words; a text of nothing else is left as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold().strip()
    bare = folded.strip(" \t\r\n.,;:!?\"'`*()[]{}<>\u201c\u201d\u2018\u2019\u2581\u0121\u3002\u3001\u300c\u300d")
    return re.sub(r"\s+", " ", bare or folded)


def _begins(said: str, answer: str) -> bool:
    """Whether a text begins with the whole words of an answer."""
    return said.startswith(answer) and _ends_word(said, len(answer))
