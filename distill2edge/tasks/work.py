"""What a task does: the stages whose work depends on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill2edge.cost.serving_places import watts_of
from distill2edge.data.encode import Encoded, Row, read_rows
from distill2edge.data.model_inputs import encode_for
from distill2edge.models.kinds import Kind
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.recipe.schema import Distill, Recipe
from distill2edge.util.progress import Progress

Facts = dict[str, Any]


class Work(ABC):
    """The stages whose work depends on the task.

    Paths: `rows_dir` has the splits as Parquet (the data stage's, or those of a synthesis); `teacher`, `student` are
    Hugging Face directories; `work` is the directory to write, which may hold leftovers of a killed try of the same
    inputs. Every method returns a small JSON-able dict of facts, and raises UserError for what the user can correct.

    Attributes:
        reads_as: the kind as which every model of the task reads a row; None: each as its own.
    """

    reads_as: Kind | None = None

    def encoded(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str) -> list[Encoded]:
        """A split of the data in the tokens of a model."""
        return encode_for(recipe.data, self.rows(recipe, rows_dir, split), model_dir, kind=self.reads_as)

    def rows(self, recipe: Recipe, rows_dir: Path, split: str) -> list[Row]:
        """A split of the data, as far as the task reads it."""
        return read_rows(rows_dir, split)

    @abstractmethod
    def fit(self, recipe: Recipe, base: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
        """Fit the teacher to the data's own responses; writes a dense `model/`."""

    @abstractmethod
    def signal(
        self, recipe: Recipe, teacher: Path, origin: Facts, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """Cache the teacher's signal on train and validation rows.

        Args:
            origin: facts of the teacher stage: name, revision, licence; empty for signals that keep no text.
        """

    @abstractmethod
    def student(
        self, recipe: Recipe, teacher: Path, checkpoint: Path | None, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """Write the untrained student as `model/` and `student.json`; `checkpoint` is what it starts from, if any."""

    @abstractmethod
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

    @abstractmethod
    def merge(self, recipe: Recipe, student: Path, trained: Path, rows_dir: Path, work: Path) -> Facts:
        """Turn what was trained into one dense `model/`, checked, and `merge.json`."""

    @abstractmethod
    def held_out(self, recipe: Recipe, model_dir: Path, rows_dir: Path) -> Encodings:
        """The test rows in the tokens of a model."""

    @abstractmethod
    def verify(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
        labels: Path | None = None,
    ) -> Facts:
        """Score and compare every model; writes `verify.json`.

        Args:
            labels: the signal of a teacher that is asked, where the task has such teachers.
        """

    def bench(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
    ) -> Facts:
        """Measure the speed of every model; writes `bench.json`."""
        from distill2edge.bench.measure import bench_models

        watts = watts_of(recipe.bench, recipe.cost)
        return bench_models(
            models, encodings, recipe.bench, seed=recipe.seed, work=work, progress=progress, watts=watts
        )
