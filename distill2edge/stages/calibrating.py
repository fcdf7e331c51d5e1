"""The stages that read the calibration rows through a model: calibration, sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill2edge.pipeline.stage_files import Files
from distill2edge.stages.stage import Facts, Inputs, ModelStage, Rows, Stage, plain, rows_key

if TYPE_CHECKING:
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.planning.sizes import Model, Sizes
    from distill2edge.quantize.activations import Activations
    from distill2edge.quantize.calibration_texts import Text
    from distill2edge.quantize.measure_sensitivity import Sensitivity as Measured
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

    bucket = "export"
    command = False

    @property
    def evidence(self) -> bool:
        """As `Stage.evidence`."""
        return self.role == "teacher"

    def texts(self, inputs: Inputs) -> dict[str, Text]:
        """Id -> tokens of each calibration row."""
        from distill2edge.quantize.calibration_texts import texts_of
        from distill2edge.tasks import task_of

        work = task_of(self.recipe).work
        return texts_of(work.calibration(self.recipe, self.rows.path(inputs), self.model.model_dir(inputs)))

    def works_on(self, sizes: Sizes) -> Model | None:
        """As `ModelStage.works_on`."""
        return sizes.student if self.role == "student" else sizes.teacher


@plain
class Calibration(Statistics):
    """What a model's weights are multiplied with on the calibration split.

    Attributes:
        grams: whether a file is rounded by the products of inputs too: compensated rounding, and mixes.
    """

    grams: bool

    kind = "calibration"
    files = Files(("imatrix.gguf", "grams-*.safetensors", "calibration.json"))
    help = "Measure on the calibration rows what files are rounded by."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        recipe = self.recipe
        key = {"max_tokens": recipe.quantize.max_tokens, "rows": rows_key(recipe)}
        return {**key, "grams": 2} if self.grams else key  # raised when files are rounded by them in another way

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.split_files import read_rows
        from distill2edge.quantize.calibrate import write_calibration

        recipe, model_dir, rows = self.recipe, self.model.model_dir(inputs), self.rows.path(inputs)
        held_out = {row.id for row in read_rows(rows, "test")}
        return write_calibration(
            model_dir,
            self.texts(inputs),
            held_out,
            work,
            progress,
            max_tokens=recipe.quantize.max_tokens,
            dataset=recipe.data.source,
            grams=self.grams,
        )

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.calibrated(grams=self.grams)

    def read(self, inputs: Inputs) -> Activations:
        """What it wrote with `grams`."""
        from distill2edge.quantize.calibrate import read_calibration

        return read_calibration(self.path(inputs))


@plain
class Sensitivity(Statistics):
    """What a mix of types is chosen by, on the calibration split.

    Attributes:
        calibration: the activations of the same model on the same rows.
        formats: of the mixes.
    """

    calibration: Calibration
    formats: tuple[str, ...]

    kind = "sensitivity"
    version = 5
    files = Files(("sensitivity.json",))
    help = "Measure on the calibration rows what each type costs each tensor, for mixes."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        key = {"max_tokens": self.recipe.quantize.max_tokens, "rows": rows_key(self.recipe)}
        return key if self.formats == ("gguf",) else {**key, "formats": self.formats}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.quantize.measure_sensitivity import write_sensitivity

        return write_sensitivity(
            self.model.model_dir(inputs),
            list(self.texts(inputs).values()),
            self.calibration.read(inputs),
            work,
            progress,
            max_tokens=self.recipe.quantize.max_tokens,
            formats=self.formats,
        )

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.weighed()

    def read(self, inputs: Inputs) -> Measured:
        """What it wrote, with the activations."""
        from distill2edge.quantize.measure_sensitivity import read_sensitivity

        return read_sensitivity(self.path(inputs), self.calibration.path(inputs))
