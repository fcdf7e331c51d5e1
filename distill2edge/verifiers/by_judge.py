"""`judge`: a model reads prompt and response and says whether it is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from distill2edge.data.templates import Template
from distill2edge.generation.writers import Sampling
from distill2edge.judge.judge_model import open_judge, question
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.verifiers.verifier import Group, Verdict, accepted, rejected

if TYPE_CHECKING:
    from pathlib import Path

    from distill2edge.recipe.verifiers import JudgeVerifier
    from distill2edge.util.progress import Progress

Write = Callable[[Sequence[str]], list[str]]
"""Prompts -> the model's replies."""


class Judge:
    """Accepts what the judge approves of. The verdict's reason is the judge's reply.

    Args:
        write: the judge, greedy; any teacher backend.
    """

    def __init__(self, spec: JudgeVerifier, write: Write) -> None:
        self.name: str = spec.kind
        self._write = write
        self._template = Template(spec.prompt, "signal.verify.prompt")
        self._accept = re.compile(spec.accept)

    def verify(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        """As `base.Verifier.verify`. A response that a prompt got twice is judged once."""
        asked = list(dict.fromkeys((g.prompt, response, g.reference) for g in groups for response in g.responses))
        names = ("prompt", "response", "reference")
        prompts = [
            self._template.render(dict(zip(names, row, strict=True)), number) for number, row in enumerate(asked, 1)
        ]
        found = dict(zip(asked, map(self._read, self._write(prompts)), strict=True))
        return [[found[group.prompt, response, group.reference] for response in group.responses] for group in groups]

    def close(self) -> None:
        """Nothing to free: the writer goes with this object."""

    def _read(self, reply: str) -> Verdict:
        said = f"the judge says {' '.join(reply.split())!r}"
        return accepted(said) if self._accept.match(reply) else rejected(said)


def judge_from(
    spec: JudgeVerifier, teacher: Path, work: Path, progress: Progress, placement: Placement = WHOLE
) -> Write:
    """The judge as a function: the teacher itself, or the model that the spec names.

    Args, errors: as `judge.judge_model.open_judge`.
    """
    judge = open_judge(spec, work, progress, "signal.verify", teacher=teacher, placement=placement)
    greedy = Sampling(spec.max_new_tokens)

    def write(prompts: Sequence[str]) -> list[str]:
        return [answer.text for answer in judge.generate(list(map(question, prompts)), greedy, 0)]

    return write
