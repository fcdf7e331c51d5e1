"""What a task must offer to the stages. A task is a module with these functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill2edge.quantize.schemes import parse_scheme

if TYPE_CHECKING:
    from distill2edge.models.model_file import Encodings, ModelFile
    from distill2edge.recipe.schema import Distill, Recipe
    from distill2edge.util.progress import Progress

Facts = dict[str, Any]

# The schemes for which the merge shows whether an adapter survives; one per kind of grid.
SURVIVAL = tuple(map(parse_scheme, ("onnx:int8", "onnx:int4-b32", "gguf:Q8_0", "gguf:Q4_K_M", "gguf:Q4_0")))


class Task(Protocol):
    """The stages whose work depends on the task.

    Paths: `rows_dir` has the splits as Parquet (the data stage's, or those of a synthesis); `teacher`, `student` are
    Hugging Face directories; `work` is the directory to write, which may hold leftovers of a killed try of the same
    inputs. Every function returns a small JSON-able dict of facts, and raises UserError for what the user can correct.
    """

    def fit(self, recipe: Recipe, base: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
        """Fit the teacher to the data's own responses; writes a dense `model/`."""

    def signal(
        self, recipe: Recipe, teacher: Path, origin: Facts, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """Cache the teacher's signal on train and validation rows.

        Args:
            origin: facts of the teacher stage: name, revision, licence; empty for signals that keep no text.
        """

    def student(
        self, recipe: Recipe, teacher: Path, checkpoint: Path | None, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """Write the untrained student as `model/` and `student.json`; `checkpoint` is what it starts from, if any."""

    def distill(
        self,
        recipe: Recipe,
        training: Distill,
        kind: str,
        student: Path,
        teacher: Path | None,
        signal: Path | None,
        rows_dir: Path,
        work: Path,
        progress: Progress,
    ) -> Facts:
        """Train one arm; writes `adapter/` or `model/`, and `train.json`.

        Args:
            training: the arm's section; the control's has other weights than the recipe's.
            kind: the signal's kind; `gold` for the control.
            teacher: given where the loss runs the teacher beside the student.
            signal: directory of the cached signal; None for `gold`.
        """

    def merge(self, recipe: Recipe, student: Path, trained: Path, rows_dir: Path, work: Path) -> Facts:
        """Turn what was trained into one dense `model/`, checked, and `merge.json`."""

    def held_out(self, recipe: Recipe, model_dir: Path, rows_dir: Path) -> Encodings:
        """The test rows in the tokens of a model."""

    def verify(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
    ) -> Facts:
        """Score and compare every model; writes `verify.json`."""

    def bench(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
    ) -> Facts:
        """Measure the speed of every model; writes `bench.json`."""
