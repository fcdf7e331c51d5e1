"""Pairs of answers for a judge: both orders, what its replies say, and the tally. Pure.

Pairwise comparison and its cure for position bias are those of MT-Bench (Zheng 2023, arXiv 2306.05685, sections 3.1 and
3.4): each pair is shown in both orders, and an answer wins only where it is preferred in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from distill2edge.util.proportions import proportion_interval

Said = Literal["first", "second", "tie"]
Outcome = Literal["win", "loss", "tie", "identical", "inconsistent", "unreadable"]
"""Of one pair, for the student. `tie`: both orders say so. `identical`: the answers are the same text, and the judge is
not asked. `inconsistent`: its verdict changes with the order. `unreadable`: a reply says no verdict, or several."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
SCORES: dict[Outcome, float] = {"win": 1.0, "loss": 0.0, "tie": 0.5, "identical": 0.5, "inconsistent": 0.5}
"""What a readable pair counts in the win rate."""

_MARK = re.compile(r"\[\[\s*([ABC])\s*\]\]", re.IGNORECASE)
_SAYS: dict[str, Said] = {"A": "first", "B": "second", "C": "tie"}
_BOTH: dict[tuple[Said, Said], Outcome] = {
    ("first", "second"): "win",
    ("second", "first"): "loss",
    ("tie", "tie"): "tie",
}


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt; `reference` is the data's own response."""

    prompt: str
    student: str
    teacher: str
    reference: str = ""

    @property
    def identical(self) -> bool:
        """Whether there is nothing to compare: the same text, white space around it apart."""
        return self.student.strip() == self.teacher.strip()

    def orders(self) -> tuple[dict[str, str], dict[str, str]]:
        """What the judge's template is rendered with: the student first, then the teacher first."""
        shared = {"prompt": self.prompt, "reference": self.reference}
        return (
            {**shared, "first": self.student, "second": self.teacher},
            {**shared, "first": self.teacher, "second": self.student},
        )


def read_reply(reply: str) -> Said | None:
    """The verdict in a reply; None where it names none, or more than one: a guess is no verdict.

    What a reasoning model thinks first is no part of its reply; where it was cut while it thought, there is none.
    """
    if "<think>" in reply or "</think>" in reply:
        _, end, reply = reply.rpartition("</think>")
        reply = reply if end else ""
    found = {mark.upper() for mark in _MARK.findall(reply)}
    return _SAYS[found.pop()] if len(found) == 1 else None


def outcome_of(student_first: str | None, teacher_first: str | None) -> Outcome:
    """What two replies make of a pair, the student shown first in one and second in the other.

    Args:
        student_first, teacher_first: None where the judge could not be asked.
    """
    a, b = (None if reply is None else read_reply(reply) for reply in (student_first, teacher_first))
    return "unreadable" if a is None or b is None else _BOTH.get((a, b), "inconsistent")


def tally(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts and rates of one student file.

    Returns:
        `pairs`; `counts` of each outcome; `win_rate`: (wins + half of the ties of every kind) / readable pairs, and
        `position_bias`: inconsistent / readable pairs that the judge was asked about, both over pairs with their 95%
        intervals (`proportion_interval`), null where there is none. There is no win rate either where identical
        answers are all that is left, because the judge could be read in no pair.
    """
    scores = [SCORES[outcome] for outcome in outcomes if outcome in SCORES]
    flips = [float(outcome == "inconsistent") for outcome in outcomes if outcome not in ("identical", "unreadable")]
    unread = outcomes.count("unreadable")
    both = [2.0] * len(scores)  # a pair is judged in both orders: a tie is one of two
    return {
        "pairs": len(outcomes),
        "counts": {name: outcomes.count(name) for name in OUTCOMES},
        "win_rate": proportion_interval(scores, both).as_dict() if scores and (flips or not unread) else None,
        "position_bias": proportion_interval(flips).as_dict() if flips else None,
    }
