"""`judge`: a model reads prompt and response and says whether it is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from distill2edge.data.templates import Template
from distill2edge.verifiers.base import Group, Verdict, accepted, rejected

if TYPE_CHECKING:
    from pathlib import Path

    from distill2edge.progress import Progress
    from distill2edge.recipe.verifiers import JudgeVerifier

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


def open_judge(spec: JudgeVerifier, teacher: Path, work: Path, progress: Progress) -> Write:
    """The judge as a function: the teacher itself, or the model that the spec names.

    Args:
        teacher: its Hugging Face directory.
        work: a named model is fetched to `judge/` here; none of its words trains the student, so there is no licence
            gate.

    Raises:
        UserError: no such model, or no chat template where `template` is chat.
        EnvironmentFault: it can't be downloaded.
    """
    from transformers import AutoTokenizer

    from distill2edge.data.encode import encode_prompts, stop_token_ids
    from distill2edge.recipe.schema import TextSignal
    from distill2edge.teacher.writers import open_writer

    model_dir = teacher
    if spec.model is not None:
        from distill2edge.teacher.load import fetch_model

        fetch_model(spec.model, spec.revision, work / "judge", progress, where="signal.verify.model")
        model_dir = work / "judge" / "model"
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    stop = stop_token_ids(tokenizer, spec.template)
    greedy = TextSignal(max_new_tokens=spec.max_new_tokens)  # type: ignore[call-arg]
    writer = open_writer(model_dir, tokenizer, greedy, stop, "transformers", None)

    def write(prompts: Sequence[str]) -> list[str]:
        ids = encode_prompts(prompts, tokenizer, spec.template)
        return [str(tokenizer.decode(answer, skip_special_tokens=True)) for answer in writer(ids, 0)]

    return write
