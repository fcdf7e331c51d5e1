"""A stage: kind, version, what it is for, what its key is made of, what it reads, what it writes. One class each.

The fields of a stage that are stages are its parents: what it reads is what it names. Modules of stages import what
does the work inside `write`, so that the list of stages is light.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from distill2edge.pipeline.artifact import Artifact
from distill2edge.pipeline.stage_files import Files
from distill2edge.tasks import task_of

if TYPE_CHECKING:
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.planning.sizes import Model, Sizes, SizesOf
    from distill2edge.recipe.schema import Recipe
    from distill2edge.stages.sources import Sources
    from distill2edge.util.progress import Progress

Facts = dict[str, Any]
Inputs = Mapping[str, Artifact]
"""Artifacts by the names of their stages."""
Bucket = Literal["teacher_generation", "training", "export", "evaluation"]
"""The one-off sums of the cost report."""

DENSE = ("model/**", "merge.json")
TRAINING = ("trained/**",)
"""Checkpoints, and the finished result of a training inside a stage."""
ANSWERS = ("answers.jsonl",)
"""What endpoints have said."""
PAID = (*ANSWERS, "written-*.json*", "verdicts-*.jsonl")

plain = dataclass(frozen=True, eq=False, kw_only=True)
"""What every class of a stage is decorated with."""


@plain
class Stage(ABC):
    """One node of a recipe's graph.

    Attributes:
        sources: the recipe, and what it names outside itself.
        arm: what follows the kind in the name: `control`, `on-policy 1`, `student/gguf:Q4_0`.
        as_recipe: in place of the recipe, for what a round of it does.
        kind: the stage's directory in the store.
        version: raised when the code makes another artifact of the same inputs.
        files: what of its directory is the artifact, and what a killed try leaves to the next.
        bucket: the sum of the cost report that its time belongs to.
        help: one line for people.
        command: whether `distill2edge KIND RECIPE` runs up to it.
        shared: whether the seeds of `--seeds` have it in common, as far as it reads nothing of a student.
        published: files of its artifact that the run directory has a copy of.
        sizes: what `plan` reads its artifact for, where it says how large the work is.
        by_workers: whether `teacher.workers` make its shards.
    """

    sources: Sources
    arm: str = ""
    as_recipe: Recipe | None = None

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    files: ClassVar[Files]
    bucket: ClassVar[Bucket]
    help: ClassVar[str]
    command: ClassVar[bool] = True
    shared: ClassVar[bool] = False
    published: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[SizesOf | None] = None
    by_workers: ClassVar[bool] = False

    @property
    def recipe(self) -> Recipe:
        """That which it does its work by."""
        return self.as_recipe or self.sources.recipe

    @property
    def name(self) -> str:
        """Unique in the graph."""
        return f"{self.kind} {self.arm}".strip()

    @property
    def seed(self) -> int:
        """Of the run that its key belongs to."""
        return self.sources.recipe.seed

    @cached_property
    def reads(self) -> tuple[Stage, ...]:
        """The stages among its fields, each once."""
        return tuple(dict.fromkeys(found for field in fields(self) for found in _stages(getattr(self, field.name))))

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the stages that it reads."""
        return tuple(stage.name for stage in self.reads)

    @property
    @abstractmethod
    def section(self) -> Any:
        """What its artifact depends on beside its parents: plain values."""

    @abstractmethod
    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """Make the artifact in a directory.

        Args:
            work: empty but for what `files` lets a killed try leave.
            inputs: the parents' artifacts.

        Returns:
            small JSON-able facts, for the manifest.

        Raises:
            UserError: what the user can fix.
        """

    # --- accounts -----------------------------------------------------------------

    @property
    def evidence(self) -> bool:
        """Whether it belongs to an arm that is made to compare with, and is no part of making the student."""
        return False

    @property
    def spent_on(self) -> Bucket:
        """The sum that its time belongs to: evidence is evaluation, whatever its kind."""
        return "evaluation" if self.evidence else self.bucket

    @abstractmethod
    def estimate(self, sizes: Sizes, speed: float) -> Cost:
        """What it will cost, by arithmetic on counts.

        Args:
            speed: FLOPs per second of a matrix product on all threads.
        """

    # --- for those who read it ----------------------------------------------------

    def artifact(self, inputs: Inputs) -> Artifact:
        """Its own artifact, among a reader's inputs."""
        return inputs[self.name]

    def path(self, inputs: Inputs) -> Path:
        """Its artifact's directory."""
        return inputs[self.name].path

    def model_dir(self, inputs: Inputs) -> Path:
        """The Hugging Face directory in it."""
        return inputs[self.name].path / "model"


def kind_of(name: str) -> str:
    """The kind in the name of a stage."""
    return name.partition(" ")[0]


@plain
class ModelStage(Stage):
    """A stage whose cost goes by the size of a model."""

    def estimate(self, sizes: Sizes, speed: float) -> Cost:
        """As `Stage.estimate`."""
        from distill2edge.planning.costs import Cost, Work

        model = self.works_on(sizes)
        return Cost() if model is None else self.cost(Work(self.sources.recipe, sizes, speed, model))

    def works_on(self, sizes: Sizes) -> Model | None:
        """The model; None where its size is not known yet."""
        return sizes.teacher

    @abstractmethod
    def cost(self, work: Work) -> Cost:
        """`estimate`, once the size of its model is known."""


@dataclass(frozen=True)
class Rows:
    """The rows that later stages read: those of the data, or what a teacher made of them or wrote to them."""

    data: Stage
    made: Stage | None = None

    def path(self, inputs: Inputs) -> Path:
        """The directory of the splits."""
        return (self.made or self.data).path(inputs)


def rows_key(recipe: Recipe) -> dict[str, Any]:
    """What the tokens of rows depend on beside the rows."""
    data = recipe.data
    key = {"template": data.template, "system": data.system, "max_length": data.max_length}
    return {**key, **task_of(recipe).key}


def asked_key(recipe: Recipe) -> dict[str, Any]:
    """How a teacher is asked, where it is."""
    from distill2edge.recipe.canonical import canonical

    ask = recipe.teacher.ask
    return {} if ask is None else {"ask": canonical(ask), "choices": recipe.data.choices}


def loaded_key(recipe: Recipe) -> dict[str, Any]:
    """How the teacher's weights are rounded as it is loaded: where they lie changes nothing that it says."""
    quantization = recipe.teacher.placement.quantization
    return {} if quantization is None else {"teacher_quantization": quantization}


def thresholds_key(recipe: Recipe) -> dict[str, Any]:
    """How the thresholds of labels are chosen, where they are."""
    chosen = recipe.student.thresholds
    return {} if chosen == "half" else {"thresholds": chosen}


def scored_key(recipe: Recipe) -> dict[str, Any]:
    """Which of the rows a teacher has scored, where later rounds get the others."""
    policy = recipe.distill.on_policy
    return {} if policy is None or policy.warm_rows is None else {"scored_rows": policy.warm_rows}


def drawn_key(recipe: Recipe) -> dict[str, Any]:
    """What a signal's draws depend on, where it is a random sample."""
    return {"draws": recipe.seed} if getattr(recipe.signal, "sample", None) is not None else {}


def _stages(value: Any) -> Iterator[Stage]:
    if isinstance(value, Stage):
        yield value
    elif isinstance(value, Rows):
        yield value.data
        yield from _stages(value.made)
    elif isinstance(value, tuple):
        for each in value:
            yield from _stages(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _stages(each)
