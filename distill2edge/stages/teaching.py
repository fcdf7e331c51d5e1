"""The stages of rows and teacher: data, teacher, fit, synthesis, signal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.pipeline.stage_files import Files
from distill2edge.stages.sharing import by_workers
from distill2edge.stages.stage import (
    ANSWERS,
    DENSE,
    PAID,
    TRAINING,
    Facts,
    Inputs,
    ModelStage,
    Rows,
    Stage,
    asked_key,
    drawn_key,
    loaded_key,
    plain,
    rows_key,
    scored_key,
    thresholds_key,
)
from distill2edge.tasks import task_of
from distill2edge.util.files import write_json

if TYPE_CHECKING:
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.planning.sizes import Sizes
    from distill2edge.util.progress import Progress


@plain
class Data(Stage):
    """The rows of the source, in splits."""

    kind = "data"
    version = 2
    files = Files(("*.parquet", "*.json", "*.jsonl"))
    bucket = "teacher_generation"
    help = "Prepare the rows: source, templates, splits, leakage check."
    shared = True
    sizes = "data"

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        key = {**canonical(self.recipe.data), "content": self.sources.data}
        task = task_of(self.recipe)
        return key | {name: True for name in ("numeric", "tagged") if getattr(task, name)}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.prepare import prepare

        task = task_of(self.recipe)
        return prepare(self.recipe.data, self.recipe.seed, work, progress, numeric=task.numeric, tagged=task.tagged)

    def estimate(self, sizes: Sizes, speed: float) -> Cost:
        """As `Stage.estimate`: it needs no model."""
        from distill2edge.planning.costs import rows_read

        return rows_read(sizes)


@plain
class Teacher(ModelStage):
    """The teacher as it is fetched; `data` where its tokenizer is trained on the rows."""

    data: Stage | None = None

    kind = "teacher"
    version = 2
    files = Files(("model/**", "teacher.json"))
    bucket = "teacher_generation"
    help = "Fetch the teacher, where its licence allows it. Its weights are kept as safetensors."
    shared = True
    sizes = "teacher"

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical
        from distill2edge.recipe.schema import FromTeacher

        recipe = self.recipe
        key = canonical(recipe.teacher, {"fit", "backend", "endpoint", "ask", "load", "workers"})
        key |= {"content": self.sources.teacher, "derivative": isinstance(recipe.student.init, FromTeacher)}
        key |= task_of(recipe).teacher_key
        key |= {"tokenizer": self.sources.student} if recipe.scored_elsewhere else {}
        return key if self.data is None else {**key, "context": recipe.data.max_length}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.recipe.schema import FromTeacher
        from distill2edge.recipe.scratch import ScratchTeacher

        recipe, teacher = self.recipe, self.recipe.teacher
        if isinstance(teacher.model, ScratchTeacher):
            from distill2edge.data.split_files import read_rows
            from distill2edge.intake.random_models import materialise_scratch

            assert self.data is not None
            return materialise_scratch(
                teacher.model,
                read_rows(self.data.path(inputs), "train"),
                work,
                progress,
                licence=teacher.licence,
                accept_licence=teacher.accept_licence,
                max_length=recipe.data.max_length,
                seed=recipe.seed,
            )
        if teacher.url is not None:
            from distill2edge.teacher.endpoint_record import record_teacher

            facts = record_teacher(teacher, work, progress)
            if recipe.scored_elsewhere:
                self._fetch_tokenizer(work, progress)
            return facts
        from distill2edge.intake.obtain import materialise

        facts = materialise(
            teacher.model,
            teacher.revision,
            teacher.licence,
            teacher.accept_licence,
            work,
            progress,
            derivative=isinstance(recipe.student.init, FromTeacher),
            weights=teacher.dequantize,
        )
        if changed := task_of(recipe).work.teacher(recipe, work / "model", progress):
            facts |= changed
            write_json(work / "teacher.json", facts)
        return facts

    def _fetch_tokenizer(self, work: Path, progress: Progress) -> None:
        """Write `model/`: the student's tokenizer and configuration, in whose tokens a served teacher is read."""
        from distill2edge.intake.obtain import fetch_model
        from distill2edge.models.loading import copy_tokenizer
        from distill2edge.recipe.schema import FromModel

        init, fetched, target = self.recipe.student.init, work / "student", work / "model"
        assert isinstance(init, FromModel)
        assert isinstance(init.model, str)
        fetch_model(init.model, init.revision, fetched, progress, where="student.init.model")
        target.mkdir()
        copy_tokenizer(fetched / "model", target)
        shutil.copyfile(fetched / "model" / "config.json", target / "config.json")
        shutil.rmtree(fetched)

    def estimate(self, sizes: Sizes, speed: float) -> Cost:
        """As `Stage.estimate`."""
        from distill2edge.planning.costs import RECORDED

        return RECORDED if self.recipe.teacher.url is not None else super().estimate(sizes, speed)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.fetched()


@plain
class Fit(ModelStage):
    """The teacher, trained on the data's own responses and merged."""

    data: Stage
    base: Stage

    kind = "fit"
    command = False  # `distill2edge fit` finds students for a device
    files = Files(DENSE, TRAINING)
    bucket = "training"
    help = "Fit the teacher to the task, if the recipe says so."
    shared = True

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        recipe, weights = self.recipe, self.recipe.distill.loss.class_weights
        key = {"fit": canonical(recipe.teacher.fit), "rows": rows_key(recipe)} | asked_key(recipe)
        key |= thresholds_key(recipe)
        return key if weights == "none" else {**key, "class_weights": weights}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""

        task = task_of(self.recipe).work
        return task.fit(self.recipe, self.base.model_dir(inputs), self.data.path(inputs), work, progress)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.fitted()


@plain
class Synthesis(ModelStage):
    """Rows that the teacher makes, in the layout of the data's."""

    data: Stage
    base: Stage
    teacher: Stage

    kind = "synthesis"
    version = 2
    files = Files(("*.parquet", "*.json", *PAID), PAID, ANSWERS)
    bucket = "teacher_generation"
    help = "Let the teacher write rows, if the recipe says so. Every one is recorded in a ledger."
    shared = True

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        made = canonical(self.recipe.synthesis)
        return {"synthesis": made, "backend": self.sources.backend, "rows": rows_key(self.recipe)} | (
            loaded_key(self.recipe)
        )

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.ledger import Origin
        from distill2edge.synthesis.synthesize import synthesise
        from distill2edge.teacher.open_teacher import open_generator

        recipe = self.recipe
        assert recipe.synthesis is not None
        where = "synthesis.responses.max_new_tokens"
        return synthesise(
            recipe.synthesis,
            self.data.path(inputs),
            open_generator(recipe, self.teacher.model_dir(inputs), work, progress, where),
            work,
            progress,
            origin=Origin.of(self.base.artifact(inputs).facts),
            template=recipe.data.template,
            system=recipe.data.system,
            seed=recipe.seed,
        )

    def estimate(self, sizes: Sizes, speed: float) -> Cost:
        """As `Stage.estimate`."""
        from distill2edge.planning.costs import asked_for

        return asked_for(sizes) if self.recipe.teacher.url is not None else super().estimate(sizes, speed)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.synthesised()


@plain
class References(ModelStage):
    """The data's rows, with responses that the teacher writes to the held-out ones: there are no others."""

    data: Stage
    base: Stage
    teacher: Stage

    kind = "references"
    files = Files(("*.parquet", "*.json", *PAID), ("shard-*", *PAID), ANSWERS)
    bucket = "teacher_generation"
    help = "Let the teacher answer the held-out rows, where no row has a response."
    shared = True
    by_workers = True

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        recipe = self.recipe
        signal = canonical(recipe.signal, {"temperature", "top_p", "samples", "verify"})
        key = {"references": signal, "backend": self.sources.backend, "rows": rows_key(recipe), "ledger": LEDGER}
        return key | loaded_key(recipe)

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.ledger import Origin
        from distill2edge.teacher.open_teacher import open_generator
        from distill2edge.teacher.references import write_references

        recipe = self.recipe
        assert recipe.signal.kind == "text"
        teacher = self.teacher.model_dir(inputs)
        with by_workers(recipe, teacher, progress):
            return write_references(
                open_generator(recipe, teacher, work, progress),
                self.data.path(inputs),
                recipe.signal,
                work,
                progress,
                template=recipe.data.template,
                system=recipe.data.system,
                seed=recipe.seed,
                origin=Origin.of(self.base.artifact(inputs).facts),
            )

    def estimate(self, sizes: Sizes, speed: float) -> Cost:
        """As `Stage.estimate`."""
        from distill2edge.planning.costs import asked_for

        return asked_for(sizes) if self.recipe.teacher.url is not None else super().estimate(sizes, speed)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.shared_out(work.answered())


@plain
class AnySignal(ModelStage):
    """What every stage has in common that keeps what a model says about rows."""

    kind = "signal"
    files = Files(
        ("shard-*", "labels-*.safetensors", "vectors-*.safetensors", *PAID, "signal.json", "ledger.parquet"),
        ("shard-*", "labels-*.safetensors", "vectors-*.safetensors", *PAID),
        ANSWERS,
    )
    bucket = "teacher_generation"
    help = "Cache the teacher's logits, or the text it writes."

    def estimate(self, sizes: Sizes, speed: float) -> Cost:
        """As `Stage.estimate`."""
        from distill2edge.planning.costs import asked_for

        return asked_for(sizes) if self.recipe.teacher.url is not None else super().estimate(sizes, speed)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.shared_out(work.scored()) if self.by_workers else work.scored()


LEDGER = 4
"""Raised when what is dropped of a teacher's text, or what is written of it, changes."""


@plain
class Signal(AnySignal):
    """The teacher's logits on train and validation rows, or the responses it writes.

    Attributes:
        base: of a signal that keeps text: the teacher as it was fetched, whose licence goes with the text.
    """

    rows: Rows
    teacher: Stage
    base: Stage | None = None

    shared = True
    by_workers = True

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        recipe = self.recipe
        key = {"signal": canonical(recipe.signal), "backend": recipe.teacher.backend, "rows": rows_key(recipe)}
        key |= scored_key(recipe) | asked_key(recipe) | loaded_key(recipe) | drawn_key(recipe)
        if recipe.signal.kind == "logits" and recipe.signal.align != "none":
            key["student"] = self.sources.student  # whose tokens the signal is over
        if recipe.signal.kind == "text":
            key["ledger"] = LEDGER
            if self.sources.backend == "llama.cpp":
                key |= {"backend": self.sources.backend, "writer": 2}  # raised when other text is written
            if self.sources.verifiers:
                key["read"] = self.sources.verifiers
        return key

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""

        origin = {} if self.base is None else self.base.artifact(inputs).facts
        rows, teacher = self.rows.path(inputs), self.teacher.model_dir(inputs)
        with by_workers(self.recipe, teacher, progress):
            return task_of(self.recipe).work.signal(self.recipe, teacher, origin, rows, work, progress)
