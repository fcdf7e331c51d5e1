"""A model that is asked for its opinion: what the verifier of a text signal and the pairwise comparison share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from distill2edge.errors import UserError
from distill2edge.generation.generate import Ask, LocalGenerator
from distill2edge.models.placement import WHOLE, Placement

if TYPE_CHECKING:
    from distill2edge.util.progress import Progress


class JudgeSpec(Protocol):
    """What the recipe's sections of judges have in common."""

    @property
    def model(self) -> str | None:
        """As teacher.model."""

    @property
    def revision(self) -> str | None:
        """Commit of a hub model."""

    @property
    def template(self) -> str:
        """`chat` or `plain`."""


def open_judge(
    spec: JudgeSpec,
    work: Path,
    progress: Progress,
    where: str,
    *,
    teacher: Path | None = None,
    gguf: Path | None = None,
    placement: Placement = WHOLE,
) -> LocalGenerator:
    """The judge as something that writes; its weights are loaded at the first question.

    Args:
        work: a named model is fetched to `judge/` here; none of its words trains the student, so there is no licence
            gate.
        where: the spec's place in the recipe, for errors.
        teacher: Hugging Face directory of what judges where the spec names no model.
        placement: of the teacher's weights, where it judges.
        gguf: the model's own GGUF, where llama.cpp shall run it; then only its tokenizer is written to `judge/`.

    Raises:
        UserError: no such model, or no chat template where `template` is chat.
        EnvironmentFault: it can't be downloaded.
    """
    model_dir = teacher if spec.model is None else work / "judge" / "model"
    assert model_dir is not None
    if gguf is not None:
        from distill2edge.intake.gguf_load import gguf_to_hf

        gguf_to_hf(gguf, model_dir, weights=False)
    elif spec.model is not None:
        from distill2edge.intake.obtain import fetch_model

        fetch_model(spec.model, spec.revision, work / "judge", progress, where=f"{where}.model")
    judge = LocalGenerator(
        model_dir,
        template=spec.template,
        backend="transformers" if gguf is None else "llama.cpp",
        gguf_path=gguf,
        where=f"{where}.max_new_tokens",
        placement=placement if spec.model is None else WHOLE,
    )
    if spec.template == "chat" and not judge.has_chat_template:
        raise UserError(
            "the judge's tokenizer has no chat template",
            where=f"{where}.template",
            fix="set it to plain, or name an instruct model, whose tokenizer has one",
        )
    return judge


def question(prompt: str) -> Ask:
    """A judge's prompt as what is asked of a generator."""
    return Ask((("user", prompt),))
