"""The stage of a file: ONNX or GGUF, rounded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.pipeline.stage_files import Files
from distill2edge.quantize.schemes import PLAIN_SUFFIX, UNTRAINED_SUFFIX, Scheme, is_compared
from distill2edge.runtimes import RUNTIME_OF
from distill2edge.stages.calibrating import Calibration, Role, Sensitivity
from distill2edge.stages.grid import TrainOnGrid
from distill2edge.stages.stage import Facts, Inputs, ModelStage, Rows, Stage, plain, rows_key
from distill2edge.stages.teaching import Synthesis
from distill2edge.util.files import read_json, without_folders, write_json

if TYPE_CHECKING:
    from distill2edge.export.gguf_mix import MixExport
    from distill2edge.models.model_file import ModelFile
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.planning.sizes import Model, Sizes
    from distill2edge.quantize.divergence import Row
    from distill2edge.quantize.measure_sensitivity import Sensitivity as Measured
    from distill2edge.recipe.schema import Recipe
    from distill2edge.util.progress import Progress

# How a text becomes what a model reads: written into every file that ships.
_INPUT = ("template", "system", "prompt", "choices", "max_length")
_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja",
)  # fmt: skip


@plain
class Export(ModelStage):
    """One file of a scheme.

    Attributes:
        rows: read where a mix is measured on them; else the summary of a synthesis alone goes with the file.
        base: the teacher as it was fetched, whose licence goes with the file.
        model: what the file is made of.
        calibration: the activations that it is rounded by, if any.
        sensitivity: of a mix, what its types are chosen by.
        untrained: of a mix that was trained, the file that the training started from, whose types it keeps.
        role: whose file it is.
    """

    rows: Rows
    base: Stage
    model: Stage
    calibration: Calibration | None
    sensitivity: Sensitivity | None
    untrained: Stage | None
    role: Role
    scheme: Scheme

    kind = "export"
    version = 5
    files = Files(
        (
            "model.gguf", "*.onnx", "*.onnx.data", "config.json", "generation_config.json", "genai_config.json",
            *_TOKENIZER, "export.json", "input.json", "USE.md", "predict.py", "Modelfile",
        )
    )  # fmt: skip
    bucket = "export"
    help = "Write the ONNX and GGUF files that the recipe names."

    @property
    def trained(self) -> bool:
        """Whether its weights were trained on the scheme's grid."""
        return isinstance(self.model, TrainOnGrid)

    @property
    def ships(self) -> bool:
        """Whether it is a file of the student that is made to be used, not to compare with."""
        return self.role == "student" and not is_compared(self.arm)

    @property
    def id(self) -> str:
        """The model's name in the report: `student/gguf:Q4_0`."""
        return f"{self.role}/{self.scheme}"

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical
        from distill2edge.tasks import task_of

        recipe, scheme = self.recipe, self.scheme
        key = {"scheme": str(scheme), "name": recipe.name, "description": recipe.description, "role": self.role}
        key["input"] = canonical(recipe.data, {*type(recipe.data).model_fields} - {*_INPUT})
        if self._converter is not None:
            key["converter"] = self.sources.converter_content
        if self._caches:
            key["kv_cache"] = list(self._caches)
        if scheme.mix and scheme.format == "gguf" and not self.trained:
            key["nearest_stock"] = 2  # raised when the stock scheme that a mix is told with is sized in another way
        if scheme.mix and scheme.format == "onnx" and not self.trained and task_of(recipe).predicts_tokens:
            key["pace"] = 1  # raised when the time of a type is reckoned in another way
        if scheme.mix and scheme.mix.max_kl is not None and not self.trained:  # measured on rows, as verify will
            measure = {"positions": recipe.verify.positions, "max_tokens": recipe.verify.max_tokens}
            key |= {"rows": rows_key(recipe), "measure": measure}
        return key

    @property
    def parents(self) -> tuple[str, ...]:
        """As `Stage.parents`: only a mix reads the rows of the data."""
        reads = self.scheme.mix and not self.trained
        return tuple(stage.name for stage in self.reads if stage is not self.rows.data or reads)

    @property
    def _caches(self) -> tuple[str, ...]:
        """Types of keys and values that the file is measured with, beside llama.cpp's own."""
        return self.recipe.verify.caches if self.ships and self.scheme.format == "gguf" else ()

    @property
    def _converter(self) -> Path | None:
        return self.sources.converter if self.scheme.format == "gguf" else None

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        recipe, scheme, model_dir = self.recipe, self.scheme, self.model.model_dir(inputs)
        meta = self._meta(inputs)
        grid = self.model.path(inputs) if self.trained else None
        mix = imatrix = gptq = None
        if self.sensitivity is not None:
            mix = _mix(recipe, scheme, model_dir, self.sensitivity.read(inputs), self.rows.path(inputs))
        elif grid is None and self.calibration is not None:
            imatrix = self.calibration.path(inputs) / "imatrix.gguf"
            gptq = self.calibration.read(inputs) if recipe.gptq else None
        if scheme.format == "onnx":
            from distill2edge.export.gptq import export_onnx_gptq
            from distill2edge.export.onnx import export_onnx
            from distill2edge.export.onnx_mix import export_onnx_mix

            if mix is not None:
                return export_onnx_mix(model_dir, scheme, meta, work, progress, mix)
            if gptq is not None:
                return export_onnx_gptq(model_dir, scheme, meta, work, progress, gptq)
            facts = export_onnx(model_dir, scheme, meta, work, progress, grid=grid)
        else:
            from distill2edge.export.gguf import export_gguf
            from distill2edge.export.gguf_rounding import Rounding

            rounding = Rounding(imatrix, gptq, grid, mix)
            facts = export_gguf(model_dir, scheme, meta, work, progress, converter=self._converter, rounding=rounding)
            if self._caches:
                from distill2edge.handover.kv_cache import tell_of_caches

                tell_of_caches(work, self._caches)
        if self.untrained is not None:
            assert scheme.mix is not None
            before = read_json(self.untrained.path(inputs) / "export.json")
            facts |= {key: before[key] for key in ("mix", "calibration", "fallbacks")}
            write_json(work / "export.json", facts)
            if scheme.mix.budget is not None and (over := facts["size_bytes"] - scheme.mix.budget) > 0:
                progress.warn(
                    f"{scheme}: trained, the file is {over:,} bytes over its budget: norms are no longer alike"
                )
        return facts

    def _meta(self, inputs: Inputs) -> Facts:
        """What is written into the file."""
        from distill2edge.data.model_inputs import form_of

        recipe, teacher = self.recipe, self.base.artifact(inputs).facts
        licence = teacher.get("licence") or {}
        meta = {
            "name": recipe.name if self.role == "student" else f"{recipe.name}-teacher",
            "description": recipe.description,
            "licence": licence.get("licence"),
            "licence_override": licence.get("accepted"),
            "teacher": without_folders(str(teacher["source"])),
            "recipe": recipe.name,
            "recipe_key": self.model.artifact(inputs).key,
        }
        if isinstance(self.rows.made, Synthesis):
            meta |= _synthetic(self.rows.made.artifact(inputs).facts["ledger"])
        meta["input"] = form_of(recipe, self.model.model_dir(inputs)).dumps()
        if self.scheme.mix and self.scheme.format == "gguf":
            meta["scheme"] = str(self.scheme)
        return meta

    @property
    def evidence(self) -> bool:
        """As `Stage.evidence`. (A file without training on its grid is where that training starts.)"""
        return self.role == "teacher" or self.scheme.name.endswith(PLAIN_SUFFIX)

    def works_on(self, sizes: Sizes) -> Model | None:
        """As `ModelStage.works_on`."""
        return sizes.student if self.role == "student" else sizes.teacher

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.exported(self.scheme)

    def measured(self, inputs: Inputs, parameters: int) -> ModelFile:
        """The file, for verify and bench; `parameters` counts the model's weights before quantization."""
        from distill2edge.models.model_file import ModelFile

        path = self.path(inputs)
        return ModelFile(
            id=self.id,
            role=self.role,
            scheme=str(self.scheme),
            runtime=RUNTIME_OF[self.scheme.format],
            path=path,
            parameters=parameters,
            size_bytes=int(read_json(path / "export.json")["size_bytes"]),
        )


def _synthetic(rows: Facts) -> Facts:
    """For the metadata of files: what kinds of rows a teacher made, and how many were kept."""
    methods = ", ".join(f"{name} {count}" for name, count in rows["methods"].items())
    human = f"; {rows['not_distillation']} kept rows are not distillation" if rows["not_distillation"] else ""
    return {"synthetic_rows": f"{rows['kept']} of {rows['rows']} rows kept ({methods}){human}"}


def _mix(recipe: Recipe, scheme: Scheme, model_dir: Path, sensitivity: Measured, rows: Path) -> MixExport:
    """A mix and the rows that its KL is measured on: those that choose the checkpoint, where there are any."""
    from distill2edge.data.split_files import read_rows
    from distill2edge.export.gguf_mix import MixExport
    from distill2edge.tasks import task_of

    assert scheme.mix is not None
    name = "validation" if read_rows(rows, "validation") else "calibration"
    which = recipe.verify.positions if task_of(recipe).predicts_tokens else "texts"

    def measured_rows() -> list[Row]:
        return task_of(recipe).work.compared(recipe, rows, model_dir, name)

    return MixExport(scheme.mix, sensitivity, measured_rows, name, which, scheme.name.endswith(UNTRAINED_SUFFIX))
