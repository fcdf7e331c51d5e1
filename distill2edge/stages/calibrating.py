"""The stages that read the calibration rows through a model: calibration, sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill2edge.pipeline.stage_files import Files
from distill2edge.stages.stage import Facts, Inputs, ModelStage, Rows, Stage, plain, rows_key

if TYPE_CHECKING:
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.planning.sizes import Model, Sizes
    from distill2edge.util.progress import Progress

Role = Literal["student", "teacher"]


@plain
class Statistics(ModelStage):
    """What every stage has in common that reads the calibration rows through a model.

    Attributes:
        role: whose model it is.
    """

    rows: Rows
    model: Stage
    role: Role

    files = Files(("imatrix.gguf", "grams-*.safetensors", "*.json"))
    bucket = "export"
    command = False

    @property
    def evidence(self) -> bool:
        """As `Stage.evidence`."""
        return self.role == "teacher"

    def works_on(self, sizes: Sizes) -> Model | None:
        """As `ModelStage.works_on`."""
        return sizes.student if self.role == "student" else sizes.teacher


@plain
class Calibration(Statistics):
    """The importance matrix of a model on the calibration split."""

    kind = "calibration"
    help = "Measure on the calibration rows what files are rounded by."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        recipe = self.recipe
        key = {"max_tokens": recipe.quantize.max_tokens, "rows": rows_key(recipe)}
        return {**key, "grams": 2} if recipe.gptq else key  # raised when files are rounded by them in another way

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.encode import read_rows
        from distill2edge.data.model_inputs import encode_for
        from distill2edge.quantize.calibrate import write_importance

        recipe, model_dir, rows = self.recipe, self.model.model_dir(inputs), self.rows.path(inputs)
        chosen = read_rows(rows, "calibration")
        held_out = {row.id for row in read_rows(rows, "test")}
        encoded = encode_for(recipe.data, chosen, model_dir)
        return write_importance(
            model_dir,
            {item.row: item.ids for item in encoded},
            held_out,
            work,
            progress,
            max_tokens=recipe.quantize.max_tokens,
            dataset=recipe.data.source,
            grams=recipe.gptq,
        )

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.calibrated()


@plain
class Sensitivity(Statistics):
    """What a mix of types is chosen and rounded by, on the calibration split.

    Attributes:
        formats: of the mixes.
    """

    formats: tuple[str, ...]

    kind = "sensitivity"
    version = 4
    help = "Measure on the calibration rows what each type costs each tensor, for mixes."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        key = {"max_tokens": self.recipe.quantize.max_tokens, "rows": rows_key(self.recipe)}
        return key if self.formats == ("gguf",) else {**key, "formats": self.formats}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.encode import read_rows
        from distill2edge.data.model_inputs import encode_for
        from distill2edge.quantize.measure_sensitivity import write_sensitivity

        recipe, model_dir, rows = self.recipe, self.model.model_dir(inputs), self.rows.path(inputs)
        encoded = encode_for(recipe.data, read_rows(rows, "calibration"), model_dir)
        return write_sensitivity(
            model_dir,
            {item.row: item.ids for item in encoded},
            {row.id for row in read_rows(rows, "test")},
            work,
            progress,
            max_tokens=recipe.quantize.max_tokens,
            dataset=recipe.data.source,
            formats=self.formats,
        )

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.weighed()
