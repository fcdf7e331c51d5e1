"""Training on the grid of a file, and the student's own distributions that it may compare with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.pipeline.stage_files import Files
from distill2edge.quantize.schemes import Scheme
from distill2edge.stages.calibrating import Calibration
from distill2edge.stages.learning import OfStudent, complete_model
from distill2edge.stages.stage import (
    DENSE,
    TRAINING,
    Facts,
    Inputs,
    ModelStage,
    Rows,
    Stage,
    drawn_key,
    plain,
    rows_key,
    scored_key,
)
from distill2edge.stages.teaching import AnySignal
from distill2edge.tasks import task_of

if TYPE_CHECKING:
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.planning.sizes import Model, Sizes
    from distill2edge.quantize.tensor_grids import ModelGrid
    from distill2edge.util.progress import Progress


@plain
class StudentSignal(AnySignal):
    """What the merged student itself says of the rows, which its files are trained to keep.

    Attributes:
        signal: the teacher's, where there is one: its shape is taken over.
    """

    rows: Rows
    model: Stage
    signal: Stage | None

    bucket = "training"

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        recipe = self.recipe
        key = {"signal": canonical(recipe.student_signal), "kind": recipe.signal.kind, "rows": rows_key(recipe)}
        return {**key, **scored_key(recipe), **drawn_key(recipe)}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        taught = None if self.signal is None else self.signal.path(inputs)
        rows = self.rows.path(inputs)
        student = self.model.model_dir(inputs)
        return task_of(self.recipe).work.student_signal(self.recipe, student, taught, rows, work, progress)

    def estimate(self, sizes: Sizes, speed: float) -> Cost:
        """As `Stage.estimate`: whoever the teacher is."""
        return ModelStage.estimate(self, sizes, speed)

    def works_on(self, sizes: Sizes) -> Model | None:
        """As `ModelStage.works_on`."""
        return sizes.student

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.said(self.recipe.student_signal)


@plain
class TrainOnGrid(OfStudent):
    """The merged student, trained on the grid of its untrained file.

    Attributes:
        untrained: that file.
        rounded_by: where its errors were compensated: by which activations. The training then starts from the weights
            that the file stores.
        signal: the teacher's. own: the student's, where it is what the training compares with.
        teacher, student: where the loss runs the teacher beside: it, and the student as it was made of its layers.
    """

    rows: Rows
    model: Stage
    untrained: Stage
    rounded_by: Calibration | None
    signal: Stage | None
    own: Stage | None
    scheme: Scheme
    teacher: Stage | None = None
    student: Stage | None = None

    kind = "quantization-aware"
    version = 2
    files = Files((*DENSE, "train.json", "grid.safetensors", "*.jsonl"), TRAINING)
    bucket = "training"
    help = "Train on the grid of a file, if the recipe says so."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        recipe, dropout = self.recipe, self.recipe.distill.dropout
        key = {
            "training": canonical(recipe.distill.quantization_aware, {"schemes"}),
            "loss": canonical(recipe.distill.loss),
            "chunk": recipe.distill.chunk,
            "signal": recipe.signal.kind,
            "rows": rows_key(recipe),
        }
        return key if dropout is None else {**key, "dropout": dropout}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.quantize.tensor_grids import save_grids
        from distill2edge.tasks.work import OnGrid

        recipe, task = self.recipe, task_of(self.recipe).work
        section, rows, trained = recipe.distill.quantization_aware, self.rows.path(inputs), work / "trained"
        assert section is not None
        student, grids = self._start(work, inputs, progress)
        teacher, made_of = (None if each is None else each.model_dir(inputs) for each in (self.teacher, self.student))
        signal, own = (None if each is None else each.path(inputs) for each in (self.signal, self.own))
        on_grid = OnGrid(grids, section.lora, own, made_of)
        facts = task.distill(
            recipe,
            recipe.distill.on_grid,
            recipe.signal.kind,
            student,
            teacher,
            signal,
            rows,
            trained,
            progress,
            on_grid,
        )
        merged = task.merge(recipe, student, trained, rows, work, ())
        shutil.copyfile(trained / "train.json", work / "train.json")
        complete_model(recipe, work / "model", self.model.model_dir(inputs))
        save_grids(grids, work)
        for leftover in (trained, work / "start"):
            shutil.rmtree(leftover, ignore_errors=True)
        return {"train": facts, "merge": merged}

    def _start(self, work: Path, inputs: Inputs, progress: Progress) -> tuple[Path, ModelGrid]:
        """The weights that the training starts from, and the grid of each matrix that the untrained file has on one.

        Matrices whose errors were not compensated (a table of positions) stay what they are, on the file's own grids.
        """
        from distill2edge.export.found_layout import by_file
        from distill2edge.export.gguf_base import layout_for
        from distill2edge.export.grid import of_export
        from distill2edge.export.initial_weights import write_initial_weights

        scheme, student, exported = self.scheme, self.model.model_dir(inputs), self.untrained.path(inputs)
        layout = None
        if scheme.format == "gguf":
            layout = layout_for(student, work, progress, converter=self.sources.converter)
        if self.rounded_by is None:
            return student, of_export(exported, student, scheme, layout)
        start, known = work / "start", self.rounded_by.read(inputs)
        known = known if layout is None else by_file(known, layout)
        moved = write_initial_weights(scheme, known, student, start, progress, exported)
        return start, of_export(exported, student, scheme, layout, moved) | moved

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.on_grid()
