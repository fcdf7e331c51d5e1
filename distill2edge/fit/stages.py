"""What `fit` measures, as artifacts beside those of recipes: what a teacher's parts do, and how far a student is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.pipeline.stage_files import Files
from distill2edge.stages.calibrating import Statistics
from distill2edge.stages.exporting import Export
from distill2edge.stages.stage import Facts, Inputs, ModelStage, Rows, Stage, plain, rows_key

if TYPE_CHECKING:
    from distill2edge.fit.trial import Compared
    from distill2edge.models.id_map import IdMap
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.planning.sizes import Model, Sizes
    from distill2edge.util.progress import Progress

TRIAL = "trial.json"


@plain
class Influence(Statistics):
    """What each part of a teacher does on the calibration rows."""

    kind = "influence"
    files = Files(("influence.json",))
    help = "Measure what each part of the teacher does."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        return {"rows": rows_key(self.recipe)}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.quantize.sensitivity import KINDS
        from distill2edge.student.influence import write_influence

        return write_influence(
            self.model.model_dir(inputs), list(self.texts(inputs).values()), work, progress, kinds=KINDS
        )

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.weighed()


@plain
class Trial(ModelStage):
    """KL(teacher || file) of a student, by the weights that the file stores, computed in PyTorch.

    Attributes:
        split: whose rows they are compared on: `validation` where something is chosen by it.
    """

    rows: Rows
    teacher: Stage
    student: Stage
    export: Export
    split: str = "validation"

    kind = "trial"
    files = Files((TRIAL,))
    bucket = "evaluation"
    help = "Compare a file with the teacher."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        verify = self.recipe.verify
        return {"rows": rows_key(self.recipe), "split": self.split, "positions": verify.positions,
                "max_tokens": verify.max_tokens}  # fmt: skip

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.fit.trial import divergences
        from distill2edge.intake.gguf_load import gguf_to_hf
        from distill2edge.models.id_map import read_map
        from distill2edge.util.files import write_json

        teacher, student = self.teacher.model_dir(inputs), self.student.model_dir(inputs)
        gguf_to_hf(self.export.path(inputs) / "model.gguf", work / "model")
        ids = read_map(student)
        rows = self._compared(inputs, teacher, student, ids)
        found = divergences(teacher, work / "model", rows, ids, progress)
        positions = sum(count for _, count in found)
        kl = sum(total for total, _ in found) / max(positions, 1)
        facts = {"schema_version": 1, "kl": kl, "rows": len(found), "positions": positions, "split": self.split}
        write_json(work / TRIAL, {**facts, "by_row": [total / count for total, count in found]})
        return facts

    def _compared(self, inputs: Inputs, teacher: Path, student: Path, ids: IdMap | None) -> list[Compared]:
        """The rows of the split as both read them, up to `verify.max_tokens` positions."""
        from distill2edge.fit.trial import aligned, same
        from distill2edge.models.checkpoint import load_tokenizer
        from distill2edge.tasks import task_of
        from distill2edge.verify.fidelity import choose_positions

        recipe, rows = self.recipe, self.rows.path(inputs)
        work = task_of(recipe).work
        encoded = work.calibration(recipe, rows, teacher, self.split)
        spans = choose_positions(encoded, recipe.verify.max_tokens, recipe.verify.positions)
        if ids is None:
            return [same(encoded[span.row].ids, span.positions) for span in spans]
        data = recipe.data.model_copy(update={"max_length": 4 * recipe.data.max_length})  # in pieces rows are longer
        longer = work.calibration(recipe.model_copy(update={"data": data}), rows, student, self.split)
        own, piece = {row.row: row.ids for row in longer}, load_tokenizer(teacher).convert_ids_to_tokens
        return [
            aligned(row.ids, span.positions, own[row.row], ids, piece)
            for span in spans
            if (row := encoded[span.row]).row in own
        ]

    def works_on(self, sizes: Sizes) -> Model | None:
        """As `ModelStage.works_on`."""
        return sizes.teacher

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.said(0)


def influence_stages(stages: list[Stage]) -> list[Stage]:
    """The stages up to what the teacher's parts do: of the teacher as it is, before a short fit to the task."""
    data, base = _first(stages, "data"), _first(stages, "teacher")
    found = Influence(sources=base.sources, rows=Rows(data), model=base, role="teacher")
    return [data, base, found]


def trial_stages(stages: list[Stage], split: str = "validation") -> list[Stage]:
    """The stages of a recipe up to its first file, and the comparison of that."""
    from distill2edge.pipeline.run_stages import upto

    export = next(stage for stage in stages if isinstance(stage, Export) and stage.role == "student")
    student = _first(stages, "student")
    rows, teacher = student.rows, student.teacher  # type: ignore[attr-defined]
    trial = Trial(sources=export.sources, rows=rows, teacher=teacher, student=student, export=export, split=split)
    return [*upto([*stages[: stages.index(export) + 1], trial], "trial")]


def _first(stages: list[Stage], kind: str) -> Stage:
    return next(stage for stage in stages if stage.kind == kind)
