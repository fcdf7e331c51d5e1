"""What every verifier is given and gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from distill2edge.data.conversation import plain_prompt

Outcome = Literal["accepted", "rejected", "crashed", "timed out", "out of memory"]

LONGEST_REASON = 200
"""Characters of a reason that are kept: it comes from code and models, and goes into every row of the ledger."""


@dataclass(frozen=True)
class Verdict:
    """What one verifier says of one response.

    Attributes:
        outcome: `rejected` is the verifier's judgement; the other three say that it could not give one. All four
            drop the response.
        reason: one line for a person; may be empty where the response is accepted.
        answer: the final answer that was read out of the response, where the verifier reads one.
    """

    outcome: Outcome
    reason: str = ""
    answer: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the response may train a student, as far as this verifier is concerned."""
        return self.outcome == "accepted"


@dataclass(frozen=True)
class Group:
    """The responses to one prompt.

    Attributes:
        asked: the prompt as the row has it, before the chat template.
        responses: [n] samples of one teacher, at least one.
        reference: the data's own response; empty where there is none.
    """

    asked: str
    responses: tuple[str, ...]
    reference: str = ""

    @property
    def prompt(self) -> str:
        """The prompt in words: of a conversation each message after its role."""
        return plain_prompt(self.asked)


class Verifier(Protocol):
    """One plug-in. `name` is its kind, or the recipe's name for it."""

    name: str

    def verify(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """One list for each group, with one verdict for each of its responses, in order.

        What a response holds is no reason to raise: a check that fails on it gives `crashed`, and the reason.
        """

    def close(self) -> None:
        """End processes, free models."""


class Each:
    """A verifier that looks at one response at a time, made of a function."""

    def __init__(self, name: str, check: Callable[[str, str, str], Verdict]) -> None:
        self.name = name
        self._check = check

    def verify(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """As `Verifier.verify`; an exception of the check is a crash, which its verdict explains."""
        return [[self._one(group, response) for response in group.responses] for group in groups]

    def _one(self, group: Group, response: str) -> Verdict:
        try:
            return self._check(group.prompt, response, group.reference)
        except Exception as error:  # a plug-in's fault on one row must cost that row, not the run: told and counted
            return Verdict("crashed", one_line(f"{type(error).__name__}: {error}"))

    def close(self) -> None:
        """Nothing to free."""


def accepted(reason: str = "", answer: str | None = None) -> Verdict:
    """The response passes."""
    return Verdict("accepted", one_line(reason), answer)


def rejected(reason: str, answer: str | None = None) -> Verdict:
    """The response does not pass."""
    return Verdict("rejected", one_line(reason), answer)


def one_line(text: str) -> str:
    """A reason without line breaks and control characters, cut to `LONGEST_REASON` characters."""
    line = " ".join(text[: 10 * LONGEST_REASON].split())
    line = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 3] + "..."
