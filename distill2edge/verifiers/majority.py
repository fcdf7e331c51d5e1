"""`majority`: of several samples of one prompt, those that agree (self-consistency, Wang 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill2edge.verifiers.answers import final_answer, normal, read_number
from distill2edge.verifiers.verifier import Group, Verdict, accepted, rejected

if TYPE_CHECKING:
    from distill2edge.recipe.verifiers import MajorityVerifier


class Majority:
    """Accepts the responses whose answer is the most frequent one, where its share of the samples is large enough.

    Answers are compared as numbers where they are numbers, else as texts without case. A tie has no majority.
    """

    def __init__(self, spec: MajorityVerifier) -> None:
        self.name: str = spec.kind
        self._spec = spec

    def verify(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """As `base.Verifier.verify`."""
        return [self._one(group) for group in groups]

    def close(self) -> None:
        """Nothing to free."""

    def _one(self, group: Group) -> list[Verdict]:
        answers = [final_answer(response, self._spec.extract) for response in group.responses]
        keys = [None if answer is None else _key(answer) for answer in answers]
        votes = Counter(key for key in keys if key is not None).most_common(2)
        total = len(keys)
        if not votes:
            return [rejected("the response has no answer") for _ in keys]
        winner, count = votes[0]
        said = f"{count} of {total} samples say {winner[:40]}"
        if len(votes) > 1 and votes[1][1] == count:
            return [rejected(f"no majority: {said}, and as many {votes[1][0][:40]}", answer) for answer in answers]
        if count < self._spec.min_share * total:
            return [rejected(f"no majority: only {said}", answer) for answer in answers]
        return [
            accepted(said, answer) if key == winner else rejected(said, answer)
            for key, answer in zip(keys, answers, strict=True)
        ]


def _key(answer: str) -> str:
    number = read_number(answer) if normal(answer).strip("$ ") else None
    return normal(answer) if number is None else str(number)
