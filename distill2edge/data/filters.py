"""Is a generated text worth training on? Refusals, blocked words, nothing at all."""

from __future__ import annotations

import re
from collections.abc import Sequence

_APOSTROPHE = str.maketrans({"\u2019": "'", "\u02bc": "'"})
_SELF = r"(?:i|we)"
_CANNOT = rf"{_SELF}(?:'m| am|'re| are)? (?:cannot|can ?not|can't|won't|will not|unable to|not able to|not allowed to)"
_DOING = (
    r"(?:help|assist|answer|provide|comply|fulfil|fulfill|complete|respond|do that|do this|generate|create|write|"
    r"give|offer|support|engage|discuss|access|browse|open|see|view|process|continue)"
)
_POLITE = r"(?:(?:unfortunately|sorry|apologies|hello|hi)[,.!:]? +)*"
# Only the opening is looked at: a text about refusing is none.
_REFUSAL = re.compile(
    # One thanks of any length, with other words of politeness around it: two nested repeats would take for ever.
    rf"^{_POLITE}(?:thank you[^.!]*[,.!:]? +)?{_POLITE}(?:thank you[^.!]*[,.!:]? +)?"
    rf"(?:(?:i(?:'m| am)|we(?:'re| are)) (?:(?:very|so|really) )?sorry|i apologi[sz]e|my apologies"
    rf"|(?:{_CANNOT})(?: \w+)?(?: \w+)? {_DOING}\b"
    r"|as an? (?:ai|artificial intelligence|language model|large language model|virtual assistant)\b"
    r"|i(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|language model|large language model)\b"
    r"|i (?:do not|don't) have (?:the ability|access|the capability|personal (?:opinions|experiences))\b"
    r"|(?:it is|it's|that is|that's) against my (?:programming|guidelines)\b)",
    re.IGNORECASE,
)
_PUNCTUATION = re.compile(r"[\W_]+")


def refusal(text: str) -> bool:
    """Whether a response declines instead of answering, by how it opens (English)."""
    return bool(_REFUSAL.match(" ".join(text.translate(_APOSTROPHE).split())[:300]))


def blocked(text: str, words: Sequence[str]) -> str | None:
    """The first of the words or phrases that a text holds as whole words, in any case; None where there is none."""
    if not words:
        return None
    folded = f" {_PUNCTUATION.sub(' ', text.casefold())} "
    return next((word for word in words if f" {_PUNCTUATION.sub(' ', word.casefold()).strip()} " in folded), None)


def blank(text: str) -> bool:
    """Whether a text holds no letter and no digit."""
    return not _PUNCTUATION.sub("", text)
