"""The stages of the student: pretrain, student, distill, merge."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.pipeline.stage_files import Files
from distill2edge.stages.stage import (
    DENSE,
    Facts,
    Inputs,
    ModelStage,
    Rows,
    Stage,
    plain,
    rows_key,
    scored_key,
    thresholds_key,
)
from distill2edge.tasks import task_of
from distill2edge.util.files import read_json, write_json

if TYPE_CHECKING:
    from distill2edge.models.model_file import ModelFile
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.planning.sizes import Model, Sizes
    from distill2edge.recipe.schema import Distill, Recipe
    from distill2edge.util.progress import Progress

CONTROL, UNVERIFIED = "control", "unverified"
"""Arms that are made to compare with."""

ASSISTANT, ASSISTED = "assistant", "assisted"
"""The larger student that is taught first, and the student as it starts from it."""


@plain
class Pretrain(ModelStage):
    """An encoder's layers, distilled on masked tokens."""

    data: Stage
    base: Stage

    kind = "pretrain"
    version = 2
    files = Files(("model/**", "pretrain.json"), ("teacher/**", "student/**"))
    bucket = "training"
    help = "Distil an encoder on masked tokens, if asked for."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        student = self.recipe.student
        return {
            "pretrain": canonical(student.pretrain),
            "init": canonical(student.init),
            "rows": rows_key(self.recipe),
        }

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        work_of: Any = task_of(self.recipe).work  # an encoder's: no other task has the stage

        return work_of.pretrain(self.recipe, self.base.model_dir(inputs), self.data.path(inputs), work, progress)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.pretrained()


@plain
class OfStudent(ModelStage):
    """What every stage that works on the student's weights has in common."""

    def works_on(self, sizes: Sizes) -> Model | None:
        """As `ModelStage.works_on`."""
        return sizes.assistant if self.arm == ASSISTANT else sizes.student


@plain
class InitStudent(OfStudent):
    """The student before it is trained.

    Attributes:
        written: the teacher's responses, where they decide which tokens a trimmed vocabulary has.
        assistant: the larger student that its layers are taken from in place of the teacher's or the checkpoint's,
            before and after it was taught.
    """

    rows: Rows
    teacher: Stage
    pretrained: Stage | None
    written: Stage | None = None
    assistant: tuple[Stage, Stage] | None = None

    kind = "student"
    files = Files(("model/**", "student.json"))
    bucket = "training"
    help = "Initialise the student. It starts from the teacher's layers, from a checkpoint, or at random."
    sizes = "student"

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        recipe = self.recipe
        key = {"init": canonical(recipe.student.init)}
        if task_of(recipe).key or recipe.student.trim is not None:
            trim = recipe.student.vocabulary
            named = trim if isinstance(trim, str) else canonical(trim)
            key |= {"vocabulary": named, "rows": rows_key(recipe)}
        if recipe.student.init.width is not None:
            key |= {"rows": rows_key(recipe), "pruning": 1}  # raised when parts are chosen in another way
        if recipe.student.dimensions is not None:
            key["dimensions"] = list(recipe.student.dimensions)
        return key if self.sources.student is None else {**key, "content": self.sources.student}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.recipe.schema import FromModel
        from distill2edge.recipe.scratch import Scratch

        recipe, init, checkpoint = self.recipe, self.recipe.student.init, None
        teacher = self.teacher.model_dir(inputs)
        if self.assistant is not None:
            taught = self.assistant[1].model_dir(inputs)
            teacher, checkpoint = (teacher, taught) if isinstance(init, FromModel) else (taught, None)
        elif isinstance(init, FromModel):
            from distill2edge.intake.obtain import fetch_model

            fetched = work / "checkpoint"
            if isinstance(init.model, Scratch):
                from distill2edge.student.random_student import scratch_checkpoint

                scratch_checkpoint(init.model, teacher, fetched, recipe.seed)
            else:
                fetch_model(init.model, init.revision, fetched, progress, where="student.init.model")
            checkpoint = fetched / "model"
        if self.pretrained is not None:
            checkpoint = self.pretrained.model_dir(inputs)
        written = None if self.written is None else self.written.path(inputs)
        rows = self.rows.path(inputs)
        facts = task_of(recipe).work.student(recipe, teacher, checkpoint, rows, work, progress, written)
        if self.assistant is not None:
            from distill2edge.student.assistant import in_whole_layers

            facts = in_whole_layers(facts, read_json(self.assistant[0].path(inputs) / "student.json"))
            write_json(work / "student.json", facts)
        shutil.rmtree(work / "checkpoint", ignore_errors=True)
        self._rehearse(work, progress)
        return facts

    def _rehearse(self, work: Path, progress: Progress) -> None:
        """Try what can fail after hours of training: the converter of a family that no writer here covers."""
        if not any(scheme.format == "gguf" for scheme in self.recipe.schemes):
            return
        from distill2edge.data.model_inputs import form_of
        from distill2edge.export.gguf_base import rehearse

        form = form_of(self.recipe, work / "model").dumps()
        rehearse(work / "model", form, work, progress, converter=self.sources.converter)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.begun()


@plain
class AnyTraining(OfStudent):
    """What every training of the student has in common.

    Attributes:
        student: the model that it starts from.
        signal: what it learns from; None for the data's own responses.
        number: of the round that it is of, from 1.
    """

    rows: Rows
    student: Stage
    signal: Stage | None
    training: Distill
    number: int | None = None

    kind = "distill"
    files = Files(
        ("adapter/**", "model/**", "*.json", "*.jsonl"), ("adapter/**", "model/**", "checkpoints/**", "train.json*")
    )
    bucket = "training"
    help = "Train the student on the teacher's signal."

    def key(self, kind: str, left_out: set[str]) -> dict[str, Any]:
        """The key's section.

        Args:
            kind: of the signal.
            left_out: keys of `distill` that are other stages' matter.
        """
        from distill2edge.recipe.canonical import canonical

        recipe = self.recipe
        key = {"distill": canonical(self.training, left_out), "lora": canonical(recipe.student.lora)}
        key |= {"rows": rows_key(recipe), "signal": kind}
        return key if self.number is None else {**key, "round": self.number}

    @property
    def evidence(self) -> bool:
        """As `Stage.evidence`."""
        return is_compared_arm(self.arm)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        beside, labelled = self.training.loss.needs_layers, self.signal is None
        return work.trained(self.training, self.recipe.student.lora, beside=beside, labelled=labelled)


@plain
class Train(AnyTraining):
    """One arm, trained.

    Attributes:
        teacher: given where the loss runs it beside the student.
        signal_kind: `gold` for the control.
    """

    teacher: Stage | None
    signal_kind: str

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        key = self.key(self.signal_kind, {"control", "on_policy", "quantization_aware"})
        return key if self.number is not None else {**key, **scored_key(self.recipe)}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""

        return task_of(self.recipe).work.distill(
            self.recipe,
            self.training,
            self.signal_kind,
            self.student.model_dir(inputs),
            None if self.teacher is None else self.teacher.model_dir(inputs),
            None if self.signal is None else self.signal.path(inputs),
            self.rows.path(inputs),
            work,
            progress,
        )


@plain
class Merge(OfStudent):
    """What was trained, as full-precision weights.

    Attributes:
        student: the model that it was trained on.
    """

    rows: Rows
    student: Stage
    trained: Stage

    kind = "merge"
    version = 2
    files = Files(DENSE)
    bucket = "training"
    help = "Merge the adapter into full-precision weights."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        return {"rows": rows_key(self.recipe)} | thresholds_key(self.recipe)

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""

        student, trained = self.student.model_dir(inputs), self.trained.path(inputs)
        facts = task_of(self.recipe).work.merge(self.recipe, student, trained, self.rows.path(inputs), work)
        complete_model(self.recipe, work / "model", student)
        return facts

    @property
    def evidence(self) -> bool:
        """As `Stage.evidence`."""
        return is_compared_arm(self.arm)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.merged()

    def measured(self, inputs: Inputs, parameters: int) -> ModelFile:
        """The model in it, for verify and bench; `parameters` counts its weights."""
        from distill2edge.models.model_file import dense

        return dense("control" if self.arm == CONTROL else "student", self.model_dir(inputs), parameters)


def complete_model(recipe: Recipe, model_dir: Path, trained: Path) -> None:
    """Let a merged directory say how it was trained to read, with the tokenizer of `trained`: it may be shipped."""
    from distill2edge.data.model_inputs import form_of
    from distill2edge.handover.write import hand_over_model

    hand_over_model(model_dir, trained, form_of(recipe, model_dir))


def is_compared_arm(arm: str) -> bool:
    """Whether an arm (`control`, `unverified 2`) is made to compare with."""
    return arm.split(" ", 1)[0] in (CONTROL, UNVERIFIED)


def control_of(distill: Distill, term: str) -> Distill:
    """The same training without the teacher: `term` of the loss alone, on the data's own responses."""
    from distill2edge.recipe.schema import Loss

    loss = Loss(**{term: 1.0}, class_weights=distill.loss.class_weights)
    return distill.model_copy(update={"loss": loss, "control": False, "on_policy": None})


ROUND_SEEDS = 7919
"""Between the seeds of two rounds, so that no round draws what another drew."""


def round_seed(recipe: Recipe, number: int) -> int:
    """The seed of a round, from 1."""
    return recipe.seed + ROUND_SEEDS * number
